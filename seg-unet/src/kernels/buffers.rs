//! Room for feature maps, used again from step to step: mapping and clearing fresh memory takes as long as using it.
#![allow(unsafe_code)]

use std::{
    fmt,
    ops::{Deref, DerefMut},
    sync::{Mutex, PoisonError},
};

use super::{
    lanes::{Block, Real},
    maps::Size,
};

/// Memory for maps of any length. What one gives back is cut up and joined for others, so that all of it together is
/// little more than what is in use at once.
#[derive(Debug)]
pub(crate) struct Arena<R: Real>(Mutex<Segments<R>>);

#[derive(Debug)]
struct Segments<R> {
    /// Never moved while a part is in use.
    segments: Vec<Vec<Block<R>>>,
    /// What nobody uses, in order.
    free: Vec<Place>,
    used: usize,
    expected: Option<Size>,
}

/// A part of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    segment: usize,
    start: usize,
    len: usize,
}

impl<R: Real> Arena<R> {
    pub(crate) const fn new() -> Self {
        Self(Mutex::new(Segments {
            segments: Vec::new(),
            free: Vec::new(),
            used: 0,
            expected: None,
        }))
    }

    /// Room for `len` blocks, which hold anything.
    pub(crate) fn take(&'static self, len: usize) -> Maps<R> {
        let mut segments = self.lock();
        let place = segments.take(len);
        let start = segments.segments[place.segment][place.start..].as_mut_ptr();
        Maps {
            start,
            place,
            home: self,
        }
    }

    /// Says what is to come: images of a size. Unless the last were such, nothing that fitted those is kept.
    pub(crate) fn expect(&self, size: Size) {
        let mut segments = self.lock();
        if segments.expected != Some(size) {
            segments.clear();
        }
        segments.expected = Some(size);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Segments<R>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<R: Real> Segments<R> {
    fn take(&mut self, len: usize) -> Place {
        self.used += len;
        let fitting = self.free.iter_mut().filter(|place| place.len >= len);
        if let Some(free) = fitting.min_by_key(|place| place.len) {
            let place = Place { len, ..*free };
            free.start += len;
            free.len -= len;
            self.free.retain(|place| place.len > 0);
            return place;
        }
        self.segments.push(vec![Block::default(); len]);
        Place {
            segment: self.segments.len() - 1,
            start: 0,
            len,
        }
    }

    /// Frees all memory, if nobody uses any.
    fn clear(&mut self) {
        if self.used == 0 {
            self.segments.clear();
            self.free.clear();
        }
    }

    fn give_back(&mut self, place: Place) {
        self.used -= place.len;
        let i = self.free.partition_point(|free| *free < place);
        self.free.insert(i, place);
        // With the next one first, so that `i` stays what it is.
        for i in [i + 1, i] {
            if let Some([left, right]) = i.checked_sub(1).and_then(|j| self.free.get_mut(j..=i)) {
                if left.segment == right.segment && left.start + left.len == right.start {
                    left.len += right.len;
                    self.free.remove(i);
                }
            }
        }
    }
}

/// Blocks of an [`Arena`]; dropped, they go back.
pub(crate) struct Maps<R: Real> {
    start: *mut Block<R>,
    place: Place,
    home: &'static Arena<R>,
}

impl<R: Real> fmt::Debug for Maps<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Maps").field(&self.place).finish()
    }
}

// SAFETY: it is the only owner of its blocks, as a vector is.
unsafe impl<R: Real> Send for Maps<R> {}
// SAFETY: as above.
unsafe impl<R: Real> Sync for Maps<R> {}

impl<R: Real> Deref for Maps<R> {
    type Target = [Block<R>];

    fn deref(&self) -> &[Block<R>] {
        // SAFETY: the place lies within its segment, which is neither moved nor freed while a part of it is in use; it
        // is initialised, and no other `Maps` overlaps it.
        unsafe { std::slice::from_raw_parts(self.start, self.place.len) }
    }
}

impl<R: Real> DerefMut for Maps<R> {
    fn deref_mut(&mut self) -> &mut [Block<R>] {
        // SAFETY: as in `deref`.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.place.len) }
    }
}

impl<R: Real> Drop for Maps<R> {
    fn drop(&mut self) {
        self.home.lock().give_back(self.place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static ARENA: Arena<f64> = Arena::new();

    #[test]
    fn what_is_given_back_is_used_again_whole_or_in_parts() {
        let block = |x: f64| Block([x; 16]);
        let mut first = ARENA.take(100);
        let mut second = ARENA.take(50);
        first.fill(block(1.0));
        second.fill(block(2.0));
        drop(first);
        let mut parts = [ARENA.take(30), ARENA.take(30), ARENA.take(40)];
        for (i, part) in parts.iter_mut().enumerate() {
            part.fill(block(i as f64));
        }
        assert!(second.iter().all(|x| *x == block(2.0)));
        assert!((0..3).all(|i| parts[i].iter().all(|x| *x == block(i as f64))));
        let [a, b, c] = parts;
        drop(b);
        drop(a);
        drop(c); // joined on both sides
        let whole = ARENA.take(100);
        assert_eq!(ARENA.lock().segments.len(), 2);
        ARENA.lock().clear(); // in use: nothing happens
        assert_eq!(ARENA.lock().segments.len(), 2);
        drop(whole);
        drop(second);
        assert_eq!(ARENA.lock().free.len(), 2);
        ARENA.lock().clear();
        assert_eq!(ARENA.lock().segments.len(), 0);
    }
}
