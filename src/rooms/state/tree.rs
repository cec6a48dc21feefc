//! States as persistent trees, which share nodes.
//!
//! A state maps the room's state keys, numbered densely from 0, to events. It is the number of the
//! root of a tree whose nodes have 16 slots. A change copies the path from the root to the slot;
//! nodes never change. So forks share nodes, and two states differ only where node numbers differ.

use std::collections::BTreeSet;

use crate::{
    rooms::Error,
    store::{
        EventNum, NodeNum, Reader, Records, RoomNum, Rows, StateKeyNum, Tx, records::StateNode,
    },
};

/// How many bits of a key's number select a slot.
const BITS_PER_LEVEL: u32 = 4;
/// The level of the root of a tree with all 32-bit numbers.
const MAX_LEVEL: u8 = 7;

impl StateNode {
    fn empty(level: u8) -> Self {
        Self {
            level,
            filled: 0,
            slots: Vec::new(),
        }
    }

    fn at(&self, slot: u32) -> usize {
        (self.filled & ((1 << slot) - 1)).count_ones() as usize
    }

    fn get(&self, slot: u32) -> Option<u64> {
        if self.filled & (1 << slot) == 0 {
            return None;
        }
        self.slots.get(self.at(slot)).copied()
    }

    fn set(&mut self, slot: u32, value: Option<u64>) {
        let at = self.at(slot);
        let filled = self.filled & (1 << slot) != 0;
        match value {
            Some(value) if filled => self.slots[at] = value,
            Some(value) => self.slots.insert(at, value),
            None if filled => drop(self.slots.remove(at)),
            None => return,
        }
        let bit = 1 << slot;
        self.filled = if value.is_some() {
            self.filled | bit
        } else {
            self.filled & !bit
        };
    }

    /// The filled slots, each with what it holds.
    fn iter(&self) -> impl Iterator<Item = (u32, u64)> {
        (0..16)
            .filter(|slot| self.filled & (1 << slot) != 0)
            .zip(self.slots.iter().copied())
    }
}

/// The slot of `key` in a node of `level`. A tree is only as tall as its largest key needs, and a
/// child may be more than one level below its parent: the levels between have slot 0.
fn slot(key: StateKeyNum, level: u8) -> u32 {
    key.0 >> (BITS_PER_LEVEL * u32::from(level)) & 0xf
}

fn node(r: &impl Reader, room: RoomNum, num: NodeNum) -> Result<StateNode, Error> {
    if num == NodeNum::EMPTY {
        return Ok(StateNode::empty(0));
    }
    let node = r.state_nodes()?.load((room, num))?;
    match node {
        Some(node)
            if node.level <= MAX_LEVEL && node.filled.count_ones() as usize == node.slots.len() =>
        {
            Ok(node)
        }
        _ => Err(Error::corrupt(
            "state_nodes",
            (room, num),
            "missing, or not a node",
        )),
    }
}

/// The event at `key` in the state `root`.
pub fn get(
    r: &impl Reader,
    room: RoomNum,
    root: NodeNum,
    key: StateKeyNum,
) -> Result<Option<EventNum>, Error> {
    let mut node = self::node(r, room, root)?;
    for level in (0..=MAX_LEVEL).rev() {
        let slot = slot(key, level);
        if node.level < level {
            if slot != 0 {
                return Ok(None);
            }
            continue;
        }
        match node.get(slot) {
            None => return Ok(None),
            Some(event) if level == 0 => return Ok(Some(EventNum(event))),
            Some(child) => node = self::node(r, room, NodeNum(child))?,
        }
    }
    Ok(None)
}

/// The state `root` with `event` at `key`, or with no event there.
pub fn set(
    tx: &Tx,
    room: RoomNum,
    root: NodeNum,
    key: StateKeyNum,
    event: Option<EventNum>,
) -> Result<NodeNum, Error> {
    set_below(tx, room, root, MAX_LEVEL, key, event)
}

fn set_below(
    tx: &Tx,
    room: RoomNum,
    num: NodeNum,
    level: u8,
    key: StateKeyNum,
    event: Option<EventNum>,
) -> Result<NodeNum, Error> {
    let slot = slot(key, level);
    let mut node = self::node(tx, room, num)?;
    if node.level < level {
        if slot == 0 {
            return set_below(tx, room, num, level - 1, key, event);
        }
        node = StateNode::empty(level);
        node.set(0, (num != NodeNum::EMPTY).then_some(num.0));
    }
    let value = if level == 0 {
        event.map(|event| event.0)
    } else {
        let child = NodeNum(node.get(slot).unwrap_or(NodeNum::EMPTY.0));
        let child = set_below(tx, room, child, level - 1, key, event)?;
        (child != NodeNum::EMPTY).then_some(child.0)
    };
    node.set(slot, value);
    if node.filled == 0 {
        Ok(NodeNum::EMPTY)
    } else {
        insert(tx, room, &node)
    }
}

fn insert(tx: &Tx, room: RoomNum, node: &StateNode) -> Result<NodeNum, Error> {
    let mut nodes = tx.state_nodes()?;
    let last = nodes
        .prefix(room)?
        .next_back()
        .transpose()?
        .map_or(0, |(key, _)| key.value().1.0);
    let num = NodeNum(last + 1);
    nodes.put((room, num), node)?;
    Ok(num)
}

/// Every (key, event) of the state `root`, in the order of the keys. Grows with the room: not for
/// the thread.
pub fn entries(
    r: &impl Reader,
    room: RoomNum,
    root: NodeNum,
) -> Result<Vec<(StateKeyNum, EventNum)>, Error> {
    let mut found = Vec::new();
    collect(r, room, root, 0, &mut found)?;
    Ok(found)
}

fn collect(
    r: &impl Reader,
    room: RoomNum,
    num: NodeNum,
    base: u32,
    found: &mut Vec<(StateKeyNum, EventNum)>,
) -> Result<(), Error> {
    let node = node(r, room, num)?;
    for (slot, value) in node.iter() {
        let base = base | slot << (BITS_PER_LEVEL * u32::from(node.level));
        if node.level == 0 {
            found.push((StateKeyNum(base), EventNum(value)));
        } else {
            collect(r, room, NodeNum(value), base, found)?;
        }
    }
    Ok(())
}

/// The keys at which the states `roots` differ. The time grows with the difference.
pub fn differing_keys(
    r: &impl Reader,
    room: RoomNum,
    roots: &[NodeNum],
) -> Result<BTreeSet<StateKeyNum>, Error> {
    let mut keys = BTreeSet::new();
    if let Some((first, others)) = roots.split_first() {
        for other in others {
            differ(r, room, *first, *other, 0, &mut keys)?;
        }
    }
    Ok(keys)
}

fn differ(
    r: &impl Reader,
    room: RoomNum,
    left: NodeNum,
    right: NodeNum,
    base: u32,
    keys: &mut BTreeSet<StateKeyNum>,
) -> Result<(), Error> {
    if left == right {
        return Ok(());
    }
    let (left, right) = ((left, node(r, room, left)?), (right, node(r, room, right)?));
    let level = left.1.level.max(right.1.level);
    let value = |(num, node): &(NodeNum, StateNode), slot| {
        if node.level == level {
            node.get(slot)
        } else {
            (slot == 0 && *num != NodeNum::EMPTY).then_some(num.0)
        }
    };
    for slot in 0..16 {
        let (left, right) = (value(&left, slot), value(&right, slot));
        let base = base | slot << (BITS_PER_LEVEL * u32::from(level));
        if level > 0 {
            let child = |value: Option<u64>| value.map_or(NodeNum::EMPTY, NodeNum);
            differ(r, room, child(left), child(right), base, keys)?;
        } else if left != right {
            keys.insert(StateKeyNum(base));
        }
    }
    Ok(())
}

/// The number of (`kind`, `state_key`) in the room, if any of its states ever had it.
pub fn key_num(
    r: &impl Reader,
    room: RoomNum,
    kind: &str,
    state_key: &str,
) -> Result<Option<StateKeyNum>, Error> {
    Ok(r.state_keys()?
        .get((room, kind, state_key))?
        .map(|row| row.value()))
}

/// The number of (`kind`, `state_key`) in the room, a new one if it has none.
pub fn key_num_or_new(
    tx: &Tx,
    room: RoomNum,
    kind: &str,
    state_key: &str,
) -> Result<StateKeyNum, Error> {
    if let Some(num) = key_num(tx, room, kind, state_key)? {
        return Ok(num);
    }
    let num = StateKeyNum(key_count(tx, room)?);
    tx.state_key_names()?
        .insert((room, num), (kind, state_key))?;
    tx.state_keys()?.insert((room, kind, state_key), num)?;
    Ok(num)
}

/// How many state keys the room's states ever had.
pub fn key_count(r: &impl Reader, room: RoomNum) -> Result<u32, Error> {
    let names = r.state_key_names()?;
    let last = names.prefix(room)?.next_back().transpose()?;
    Ok(last.map_or(0, |(key, _)| key.value().1.0 + 1))
}

/// The (type, state key) with the number `num`.
pub fn key_name(
    r: &impl Reader,
    room: RoomNum,
    num: StateKeyNum,
) -> Result<(String, String), Error> {
    let names = r.state_key_names()?;
    let row = names
        .get((room, num))?
        .ok_or_else(|| Error::corrupt("state_key_names", (room, num), "missing"))?;
    let (kind, state_key) = row.value();
    Ok((kind.to_owned(), state_key.to_owned()))
}

/// The event at (`kind`, `state_key`) in the state `root`.
pub fn get_named(
    r: &impl Reader,
    room: RoomNum,
    root: NodeNum,
    kind: &str,
    state_key: &str,
) -> Result<Option<EventNum>, Error> {
    match key_num(r, room, kind, state_key)? {
        Some(key) => get(r, room, root, key),
        None => Ok(None),
    }
}
