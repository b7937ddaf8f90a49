//! The door of messages leads where the direct one leads, and a panic behind it costs one answer.

use std::sync::Arc;
use std::time::Duration;

use actix::{Addr, Arbiter, System};
use messages::vbucket::{
    Acknowledge, DescribeVbucket, Get, GetMany, GetMeta, SetVbucketState, Write, WriteBatch,
};
use messages::{ChildName, Generation, OperationError};
use storage::{Seqno, VbucketState};

use super::super::{ChangeStep, VbucketActor};
use super::support::{Bench, active, id, key, set};
use crate::guardian::{ExitCause, Guardian, Verdict};
use crate::shell::{Shell, ShellConfig, start};
use crate::tether::Tether;

#[derive(Debug)]
struct AtOnce;

impl Guardian for AtOnce {
    fn child_down(&self, _: &ChildName, _: Generation, _: ExitCause) -> Verdict {
        Verdict::RestartAfter(Duration::ZERO)
    }

    fn child_up(&self, _: &ChildName, _: Generation) {}

    fn tether(&self, child: &ChildName) -> Arc<Tether> {
        Arc::new(Tether::new(child.clone()).for_vbucket(Some(id())))
    }
}

fn door(bench: &Bench) -> Addr<Shell<VbucketActor>> {
    let config = ShellConfig::new(ChildName::new("vbucket-3"), Arc::new(AtOnce));
    let core = Arc::clone(&bench.core);
    start(&Arbiter::current(), config, move |_| {
        VbucketActor::new(Arc::clone(&core))
    })
}

#[test]
fn messages_are_calls() {
    System::new().block_on(async {
        let bench = active();
        let door = door(&bench);
        let written = door.send(set("a", "1")).await.unwrap().unwrap();
        let found = door.send(Get { key: key("a") }).await.unwrap();
        assert_eq!(found, bench.core.get(&key("a")));
        let meta = door.send(GetMeta { key: key("a") }).await.unwrap().unwrap();
        assert_eq!(meta.cas, written.cas);
        let keys = vec![key("b"), key("a")];
        let many = door.send(GetMany { keys }).await.unwrap();
        assert_eq!(many, [Err(OperationError::KeyNotFound), found]);
        let request = SetVbucketState {
            state: VbucketState::Dead,
            topology: None,
            is_takeover: false,
        };
        let described = door.send(request).await.unwrap().unwrap();
        assert_eq!(described.state, VbucketState::Dead);
        assert_eq!(door.send(DescribeVbucket).await.unwrap(), Ok(described));
    });
}

#[test]
fn a_batch_waits_for_the_disk_where_one_of_it_does() {
    System::new().block_on(async {
        let bench = active();
        let door = door(&bench);
        let mut persisted = set("b", "1");
        persisted.options.acknowledge = Acknowledge::Persisted;
        let writes = vec![Write::Set(set("a", "1")), Write::Set(persisted)];
        let answer = door.send(WriteBatch { writes });
        let write = async {
            // Served after the batch, which is then in memory.
            door.send(DescribeVbucket).await.unwrap().unwrap();
            assert_eq!(bench.core.waiting(), 1);
            let take = bench.core.take_for_flush(9, usize::MAX).unwrap();
            bench.core.note_persisted(take.watermarks.high_seqno);
        };
        let (answer, ()) = futures_util::future::join(answer, write).await;
        let seqnos = answer.unwrap().into_iter();
        let seqnos: Vec<_> = seqnos.map(|one| one.unwrap().token.seqno).collect();
        assert_eq!(seqnos, [Seqno(1), Seqno(2)]);
    });
}

#[test]
fn a_panic_behind_the_door_is_repaired_by_the_next_life() {
    System::new().block_on(async {
        let bench = active();
        let door = door(&bench);
        bench.core.panic_at(ChangeStep::Appended);
        let crashed = door.send(set("a", "1")).await.unwrap();
        let vbucket = id();
        assert_eq!(crashed, Err(OperationError::Crashed { vbucket }));
        let found = door.send(Get { key: key("a") }).await.unwrap();
        assert_eq!(found.unwrap().value, "1", "it was in the log");
        assert_eq!(
            door.send(set("a", "2")).await.unwrap().unwrap().token.seqno,
            Seqno(2)
        );
    });
}
