//! Changes of one document are done in the order they came, also when some must wait for what left memory: in a batch, and by
//! messages of which nobody waited for the first.
//!
//! Every two kinds of change meet, on documents that are there and on keys that are not; a bucket of which nothing leaves does
//! the same and says what is right.

use std::future::Future;
use std::pin::Pin;

use actix::prelude::*;

use piggin::messages::OperationError;
use piggin::messages::vbucket::{
    Acknowledge, Add, Append, Count, Delete, Delta, ExpiryRequest, GetAndTouch, Mutated, Prepend,
    Replace, Set, Touch, Write, WriteBatch, WriteOptions,
};
use piggin::storage::{CollectionId, DocumentKey, Eviction};
use piggin::{Bucket, BucketActor};

use crate::common::{bucket, each, evict};
use crate::support::{Result, block_on};

type Answer = std::result::Result<Mutated, OperationError>;

/// How many kinds of change there are.
const KINDS: usize = 8;
const IN_MEMORY: Acknowledge = Acknowledge::InMemory;

fn key(name: &str) -> DocumentKey {
    DocumentKey::new(CollectionId::DEFAULT, name.as_bytes()).unwrap()
}

fn change(kind: usize, name: &str) -> Write {
    let (key, value) = (key(name), format!("{kind}").into());
    let (options, cas) = (WriteOptions::default(), None);
    let acknowledge = IN_MEMORY;
    match kind {
        0 => Write::Set(Set {
            key,
            value,
            options,
        }),
        1 => Write::Delete(Delete {
            key,
            cas,
            acknowledge,
        }),
        2 => Write::Add(Add {
            key,
            value,
            options,
        }),
        3 => Write::Replace(Replace {
            key,
            value,
            options,
        }),
        4 => Write::Append(Append {
            key,
            value,
            cas,
            acknowledge,
        }),
        5 => Write::Prepend(Prepend {
            key,
            value,
            cas,
            acknowledge,
        }),
        6 => Write::Count(Count {
            key,
            delta: Delta::Increment(1),
            initial: Some(70),
            expiry: ExpiryRequest(0),
            acknowledge,
        }),
        _ => Write::Touch(Touch {
            key,
            expiry: ExpiryRequest(4_000_000_000),
            acknowledge,
        }),
    }
}

/// Three changes of each document; of half of them there is one before.
fn plan() -> Vec<(String, [usize; 3])> {
    let mut plan = Vec::new();
    for number in 0..KINDS * KINDS * KINDS * 2 {
        let kinds = [
            number / 2 % KINDS,
            number / 2 / KINDS % KINDS,
            number / 2 / KINDS / KINDS,
        ];
        plan.push((format!("{number:04}"), kinds));
    }
    plan
}

/// What an answer says that does not depend on the moment.
fn said(answer: Answer) -> String {
    match answer {
        Ok(mutated) => format!("{:?}", mutated.counter),
        Err(error) => format!("{error:?}"),
    }
}

/// Every second document, and something in each vbucket that left, so that no absence is known.
fn filled(eviction: Eviction) -> Result<Bucket> {
    let bucket = bucket(eviction);
    for (name, _) in plan().iter().step_by(2) {
        block_on(bucket.set(name, "9"))?;
    }
    Ok(bucket)
}

fn ends(bucket: &Bucket) -> Vec<std::result::Result<(bytes::Bytes, u32), OperationError>> {
    let end = |(name, _): &(String, _)| {
        let found = block_on(bucket.get(name))?;
        Ok((found.value, found.meta.expiry.0))
    };
    plan().iter().map(end).collect()
}

fn compare(bucket: &Bucket, of: &[Vec<String>], twin: &Bucket, of_twin: &[Vec<String>]) {
    let memory = bucket.memory();
    assert!(memory.evicted > 0 && memory.fetched > 0, "{memory:?}");
    assert_eq!(twin.memory().evicted, 0);
    for (((name, kinds), said), right) in plan().iter().zip(of).zip(of_twin) {
        assert_eq!(said, right, "{name}: {kinds:?}");
    }
    for ((plan, end), right) in plan().iter().zip(ends(bucket)).zip(ends(twin)) {
        assert_eq!(end, right, "{plan:?}");
    }
}

#[test]
fn a_batch_changes_a_document_in_its_order() -> Result {
    each(|eviction| {
        let (bucket, twin) = (filled(eviction)?, filled(eviction)?);
        evict(&bucket);
        let done = |bucket: &Bucket| -> Vec<Vec<String>> {
            let writes = plan()
                .into_iter()
                .flat_map(|(name, kinds)| kinds.map(|kind| change(kind, &name)));
            let answers = block_on(bucket.write_batch(writes.collect()));
            let answers: Vec<String> = answers.into_iter().map(said).collect();
            answers.chunks(3).map(<[String]>::to_vec).collect()
        };
        let (of, of_twin) = (done(&bucket), done(&twin));
        compare(&bucket, &of, &twin, &of_twin);
        block_on(twin.shutdown())?;
        Ok(block_on(bucket.shutdown()).map(drop)?)
    })
}

type Sent = Pin<Box<dyn Future<Output = std::result::Result<Answer, MailboxError>>>>;

/// Sends a change; nobody waits for its answer yet.
macro_rules! send {
    ($actor:expr, $write:expr, $($kind:ident)*) => {
        match $write {
            $(Write::$kind(message) => Box::pin($actor.send(message)) as Sent,)*
            other => panic!("{other:?}"),
        }
    };
}

/// Has each document's changes sent one behind the other, and only then waits for their answers.
fn by_messages(deliver: impl Fn(Write) -> Sent) -> Result<Vec<Vec<String>>> {
    let mut all = Vec::new();
    for (name, kinds) in plan() {
        let sent = kinds.map(|kind| deliver(change(kind, &name)));
        let mut answers = Vec::new();
        for sent in sent {
            answers.push(said(block_on(sent)?));
        }
        all.push(answers);
    }
    Ok(all)
}

#[test]
fn messages_to_a_vbucket_change_a_document_as_they_were_sent() -> Result {
    each(|eviction| {
        let (bucket, twin) = (filled(eviction)?, filled(eviction)?);
        evict(&bucket);
        let done = |bucket: &Bucket| {
            by_messages(|write| {
                let id = bucket.vbucket_of(write.key().key());
                let vbucket = bucket.vbucket(id).unwrap();
                send!(vbucket, write, Set Delete Add Replace Append Prepend Count Touch)
            })
        };
        let (of, of_twin) = (done(&bucket)?, done(&twin)?);
        compare(&bucket, &of, &twin, &of_twin);
        block_on(twin.shutdown())?;
        Ok(block_on(bucket.shutdown()).map(drop)?)
    })
}

#[test]
fn messages_to_a_bucket_change_a_document_as_they_were_sent() -> Result {
    each(|eviction| {
        let (bucket, twin) = (filled(eviction)?, filled(eviction)?);
        evict(&bucket);
        let done = |bucket: &Bucket| {
            let bucket = bucket.clone();
            let system = System::new();
            system.block_on(async move {
                let actor = BucketActor::new(bucket).start();
                let mut all = Vec::new();
                for (name, kinds) in plan() {
                    let sent = kinds.map(|kind| {
                        let write = change(kind, &name);
                        send!(actor, write, Set Delete Add Replace Append Prepend Count Touch)
                    });
                    let mut answers = Vec::new();
                    for sent in sent {
                        answers.push(said(sent.await?));
                    }
                    all.push(answers);
                }
                Result::Ok(all)
            })
        };
        let (of, of_twin) = (done(&bucket)?, done(&twin)?);
        compare(&bucket, &of, &twin, &of_twin);
        block_on(twin.shutdown())?;
        Ok(block_on(bucket.shutdown()).map(drop)?)
    })
}

/// What is not a write alone keeps its place, too: a batch behind a write, and a write behind a touch.
#[test]
fn batches_and_touches_by_message_keep_their_place() -> Result {
    each(|eviction| {
        let bucket = bucket(eviction);
        for name in ["a", "b"] {
            block_on(bucket.set(name, "9"))?;
        }
        evict(&bucket);
        let of = |name: &str| bucket.vbucket(bucket.vbucket_of(name.as_bytes())).unwrap();
        let writes = vec![change(0, "a"), change(4, "a")];
        let Write::Delete(delete) = change(1, "a") else {
            unreachable!()
        };
        let (deleted, batch) = (of("a").send(delete), of("a").send(WriteBatch { writes }));
        block_on(deleted)??;
        assert!(block_on(batch)?.iter().all(std::result::Result::is_ok));
        assert_eq!(block_on(bucket.get("a"))?.value, "04");
        let touch = GetAndTouch {
            key: key("b"),
            expiry: ExpiryRequest(4_000_000_000),
        };
        let Write::Set(set) = change(0, "b") else {
            unreachable!()
        };
        let (touched, set) = (of("b").send(touch), of("b").send(set));
        assert_eq!(block_on(touched)??.value, "9");
        block_on(set)??;
        let found = block_on(bucket.get("b"))?;
        assert_eq!((&found.value[..], found.meta.expiry.0), (&b"0"[..], 0));
        Ok(block_on(bucket.shutdown()).map(drop)?)
    })
}
