//! What is so once everything runs and nothing is written any more.

use super::super::world::{Answer, Client};
use super::*;

/// Invariants 20 and 21, once everything runs and nothing is written any more: nothing is under way anywhere, and every
/// write a client was told of is there, every client told.
pub(in crate::durability::tests) fn at_rest(world: &World) -> Result<(), String> {
    let Some((node, active)) = active(world) else {
        return Err("21: there is no active".to_owned());
    };
    sure(active.is_idle(), || format!("21: {active:?} is not idle"))?;
    for (other, passive) in passives(world) {
        let open: Vec<_> = passive.incomplete().collect();
        sure(open.is_empty(), || {
            format!("20: {open:?} of {}", other.name)
        })?;
        sure(other.pending.is_empty(), || {
            format!("20: {:?} of {}", other.pending, other.name)
        })?;
    }
    let documents = newest_documents(node);
    for (other, _) in passives(world) {
        let theirs = newest_documents(other);
        sure(theirs == documents, || {
            format!("24: {} holds {theirs:?}, not {documents:?}", other.name)
        })?;
    }
    for (id, client) in &world.clients {
        let Client {
            answers,
            is_excused,
            ..
        } = client;
        sure(answers.len() == 1, || format!("14: write {id} {client:?}"))?;
        if answers.contains(&Answer::Success) && !is_excused {
            sure(node.has(client, *id), || format!("11: {client:?} is gone"))?;
        }
    }
    Ok(())
}

/// Whose write each document is, but those of ended lives.
fn newest_documents(node: &Node) -> BTreeMap<DocumentKey, u64> {
    let end = node.last_end().unwrap_or_default();
    let is_live = |item: &&world::Item| item.key.collection() != COLLECTION || item.seqno > end;
    let items = node.log.iter().filter(is_live);
    let documents = items.filter(|item| item.slot().0 == 0);
    documents.map(|item| (item.key.clone(), item.id)).collect()
}
