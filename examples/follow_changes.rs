//! A search index that follows a bucket: kept up to date while documents are written, and taken up again where it was
//! after the index, and then the bucket, came back.
//!
//! `cargo run --example follow_changes`. The token is saved with the index, in one go, so that neither is ahead of the other.
//! What a crash of the bucket takes back is told as a rollback of its vbucket.
#![expect(clippy::print_stdout, reason = "an example tells what it sees")]

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;

use futures_executor::block_on;

use piggin::messages::stream::{StreamEndReason, StreamEvent};
use piggin::storage::{Item, VbucketId};
use piggin::{Bucket, BucketConfig, Change, ChangesOptions, ChangesToken, Since, Until};

/// Which documents hold a word; with how far it is.
#[derive(Default)]
struct Index {
    documents: BTreeMap<VbucketId, BTreeMap<Vec<u8>, BTreeSet<String>>>,
    token: Option<ChangesToken>,
}

impl Index {
    /// Takes up where it was, and goes on to what is the newest now.
    async fn catch_up(&mut self, bucket: &Bucket) -> Result<usize, Box<dyn Error>> {
        let options = ChangesOptions {
            since: self.token.clone().map_or(Since::Beginning, Since::Token),
            until: Until::Now,
            ..ChangesOptions::default()
        };
        let mut changes = bucket.changes(options).await?;
        let (mut taken, mut rolled_back) = (0, Vec::new());
        while let Some(Change { vbucket, event }) = changes.next().await {
            let of_vbucket = self.documents.entry(vbucket).or_default();
            match event {
                StreamEvent::Mutation(item) => {
                    of_vbucket.insert(key(&item), words(&item));
                    taken += 1;
                }
                StreamEvent::Deletion(item) | StreamEvent::Expiration(item) => {
                    of_vbucket.remove(&key(&item));
                    taken += 1;
                }
                // What the bucket lost, the index must lose: it begins anew with that vbucket.
                StreamEvent::StreamEnd(StreamEndReason::Rollback) => {
                    of_vbucket.clear();
                    rolled_back.push(vbucket);
                }
                StreamEvent::StreamEnd(StreamEndReason::Ok)
                | StreamEvent::SnapshotMarker(_)
                | StreamEvent::SystemEvent(_)
                | StreamEvent::SeqnoAdvanced(_)
                // Told to replicas only.
                | StreamEvent::Prepare(_)
                | StreamEvent::Commit(_)
                | StreamEvent::Abort(_) => {}
                StreamEvent::StreamEnd(reason) => return Err(reason.name().into()),
            }
        }
        let mut covered = changes.token();
        for vbucket in &rolled_back {
            covered.forget(*vbucket);
        }
        self.token = Some(covered);
        if !rolled_back.is_empty() {
            taken += Box::pin(self.catch_up(bucket)).await?;
        }
        Ok(taken)
    }

    /// What it would write to a file, in one go: how far it is, then what it has.
    fn saved(&self) -> String {
        let token = self.token.as_ref();
        let mut lines = vec![token.map_or(String::new(), ToString::to_string)];
        for (vbucket, documents) in &self.documents {
            for (key, words) in documents {
                let words: Vec<&str> = words.iter().map(String::as_str).collect();
                let key = String::from_utf8_lossy(key);
                lines.push(format!("{vbucket} {key} {}", words.join(" ")));
            }
        }
        lines.join("\n")
    }

    /// The index that was saved.
    fn restored(saved: &str) -> Result<Index, Box<dyn Error>> {
        let mut lines = saved.lines();
        let mut index = Index {
            token: Some(lines.next().unwrap_or_default().parse()?),
            ..Index::default()
        };
        for line in lines {
            let mut words = line.split_whitespace().map(str::to_owned);
            let vbucket = words.next().unwrap_or_default().parse()?;
            let vbucket = VbucketId::new(vbucket).ok_or("no vbucket has that number")?;
            let key = words.next().unwrap_or_default().into_bytes();
            let documents = index.documents.entry(vbucket).or_default();
            documents.insert(key, words.collect());
        }
        Ok(index)
    }

    fn find(&self, word: &str) -> Vec<String> {
        let documents = self.documents.values().flatten();
        let holds = documents.filter(|(_, words)| words.contains(word));
        let mut found: Vec<String> = holds
            .map(|(key, _)| String::from_utf8_lossy(key).into_owned())
            .collect();
        found.sort();
        found
    }
}

fn key(item: &Item) -> Vec<u8> {
    item.document.key.key().to_vec()
}

fn words(item: &Item) -> BTreeSet<String> {
    let text = String::from_utf8_lossy(&item.document.value);
    text.split_whitespace().map(str::to_lowercase).collect()
}

fn main() -> Result<(), Box<dyn Error>> {
    let directory = std::env::temp_dir().join(format!("piggin-follow-{}", std::process::id()));
    let mut index = Index::default();
    block_on(async {
        let bucket = Bucket::create(BucketConfig::at(&directory)).await?;
        bucket.set("pail", "A small wooden vessel").await?;
        bucket.set("piggin", "A small wooden pail").await?;
        println!("{} changes taken", index.catch_up(&bucket).await?);
        println!("wooden: {:?}", index.find("wooden"));

        // The index is closed; when it comes back it gets what happened meanwhile, and nothing else.
        let saved = index.saved();
        drop(index);
        bucket.set("pail", "A vessel with a handle").await?;
        bucket.delete("piggin").await?;
        let mut index = Index::restored(&saved)?;
        println!("{} changes taken", index.catch_up(&bucket).await?);
        println!(
            "wooden: {:?}, handle: {:?}",
            index.find("wooden"),
            index.find("handle")
        );

        // Now both come back, and the bucket tells what happened since.
        let saved = index.saved();
        bucket.shutdown().await?;
        let mut index = Index::restored(&saved)?;
        let bucket = Bucket::open(BucketConfig::at(&directory)).await?;
        bucket
            .set("stave", "One wooden stave is the handle")
            .await?;
        println!("{} changes taken", index.catch_up(&bucket).await?);
        println!(
            "wooden: {:?}, handle: {:?}",
            index.find("wooden"),
            index.find("handle")
        );
        assert_eq!(index.find("handle"), ["pail", "stave"]);
        bucket.shutdown().await?;
        Ok::<(), Box<dyn Error>>(())
    })?;
    std::fs::remove_dir_all(&directory)?;
    Ok(())
}
