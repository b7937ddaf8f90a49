//! A search index that follows a bucket: kept up to date while documents are written, and taken up again where it was
//! after the index, and then the bucket, came back.
//!
//! `cargo run --example follow_changes`. The token is kept with the index; were it in a file, it would be written with it in
//! one go. What a crash of the bucket takes back is told as a rollback of its vbucket.
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
                | StreamEvent::SeqnoAdvanced(_) => {}
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

        // The index was away; now it gets what happened meanwhile, and nothing else.
        bucket.set("pail", "A vessel with a handle").await?;
        bucket.delete("piggin").await?;
        println!("{} changes taken", index.catch_up(&bucket).await?);
        println!(
            "wooden: {:?}, handle: {:?}",
            index.find("wooden"),
            index.find("handle")
        );

        // Now the bucket comes back, and tells what happened since.
        bucket.shutdown().await?;
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
