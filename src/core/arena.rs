//! A slab whose keys name one value only: a late answer that comes with an old key finds nothing, never the value that
//! has the slot now.

use slab::Slab;

/// Names one value that was put into an [`Arena`].
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Key {
    pub(crate) index: u32,
    generation: u32,
}

/// A slab of the connections or streams of one shard, which owns it, with a generation beside each value.
#[derive(Debug)]
pub(crate) struct Arena<T> {
    slots: Slab<(u32, T)>,
    generation: u32,
}

impl<T> Default for Arena<T> {
    fn default() -> Self {
        Arena { slots: Slab::new(), generation: 0 }
    }
}

impl<T> Arena<T> {
    pub(crate) fn insert(&mut self, value: T) -> Key {
        // Wraps after 2^32 values, when no answer to the first can still be under way.
        self.generation = self.generation.wrapping_add(1);
        let generation = self.generation;
        // A slab of sockets ends far below 2^32: the file limit does.
        let index = self.slots.insert((generation, value)) as u32;
        Key { index, generation }
    }

    pub(crate) fn get(&self, key: Key) -> Option<&T> {
        let (generation, value) = self.slots.get(key.index as usize)?;
        (*generation == key.generation).then_some(value)
    }

    pub(crate) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        let (generation, value) = self.slots.get_mut(key.index as usize)?;
        (*generation == key.generation).then_some(value)
    }

    /// Returns the value at `index` now, whatever its generation.
    pub(crate) fn at(&self, index: u32) -> Option<&T> {
        self.slots.get(index as usize).map(|(_, value)| value)
    }

    /// Returns the key of the value at `index` now.
    pub(crate) fn key_at(&self, index: u32) -> Option<Key> {
        self.slots.get(index as usize).map(|(generation, _)| Key { index, generation: *generation })
    }

    /// Returns the value at `index` now, for walks over all of them.
    pub(crate) fn at_mut(&mut self, index: u32) -> Option<&mut T> {
        self.slots.get_mut(index as usize).map(|(_, value)| value)
    }

    pub(crate) fn remove(&mut self, key: Key) -> Option<T> {
        self.get_mut(key)?;
        Some(self.slots.remove(key.index as usize).1)
    }

    /// Returns an index that is above all indices in use.
    pub(crate) fn index_end(&self) -> u32 {
        self.slots.capacity() as u32
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.slots.iter().map(|(index, (_, value))| (index as u32, value))
    }

    /// Returns the keys of all values.
    pub(crate) fn keys(&self) -> impl Iterator<Item = Key> {
        self.slots.iter().map(|(index, (generation, _))| Key { index: index as u32, generation: *generation })
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (u32, &mut T)> {
        self.slots.iter_mut().map(|(index, (_, value))| (index as u32, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_a_former_tenant_finds_nobody() {
        let mut arena = Arena::default();
        let old = arena.insert("old");
        assert_eq!(arena.remove(old), Some("old"));
        let new = arena.insert("new");
        assert_eq!(old.index, new.index, "the slot is used again");
        assert_eq!(arena.get_mut(old), None);
        assert_eq!(arena.remove(old), None);
        assert_eq!(arena.get_mut(new), Some(&mut "new"));
    }

    #[test]
    fn a_walk_meets_each_tenant_with_its_index() {
        let mut arena = Arena::default();
        let keys = ["a", "b", "c"].map(|name| arena.insert(name));
        arena.remove(keys[1]);
        let there = [(keys[0].index, "a"), (keys[2].index, "c")];
        assert!(arena.iter().map(|(index, name)| (index, *name)).eq(there));
        assert!(arena.iter_mut().map(|(index, name)| (index, *name)).eq(there));
        assert!(keys.iter().all(|key| key.index < arena.index_end()));
    }
}
