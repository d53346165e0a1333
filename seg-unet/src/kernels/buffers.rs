//! Room for feature maps, used again from step to step: mapping and clearing fresh memory takes as long as using it.
#![allow(unsafe_code)]

use std::{
    alloc::{self, Layout},
    fmt,
    ops::{Deref, DerefMut},
    sync::{Mutex, MutexGuard, PoisonError},
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
    all: Vec<Segment<R>>,
    /// What nobody uses, in order.
    free: Vec<Place>,
    used: usize,
    expected: Option<(Size, usize)>,
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
            all: Vec::new(),
            free: Vec::new(),
            used: 0,
            expected: None,
        }))
    }

    /// Room for `len` blocks, which hold anything.
    pub(crate) fn take(&'static self, len: usize) -> Maps<R> {
        let mut segments = self.lock();
        let place = segments.take(len);
        // SAFETY: the place lies within the segment.
        let start = unsafe { segments.all[place.segment].start.add(place.start) };
        Maps {
            start,
            place,
            home: self,
        }
    }

    /// Says what is to come: images of a size, for which `len` blocks or so may be needed at once. Unless the last were
    /// such, nothing that fitted those is kept.
    pub(crate) fn expect(&self, size: Size, len: usize) {
        let mut segments = self.lock();
        if segments.expected != Some((size, len)) && segments.used == 0 {
            segments.all.clear();
            segments.free.clear();
            // Without it the maps find room too, one by one.
            if let Some(segment) = Segment::new(len) {
                segments.add(segment, len);
            }
            segments.expected = Some((size, len));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Segments<R>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<R: Real> Segments<R> {
    /// The first place that is long enough: memory further on is then perhaps never touched, and takes no room.
    fn take(&mut self, len: usize) -> Place {
        let fits = |place: &Place| place.len >= len;
        let i = self.free.iter().position(fits).unwrap_or_else(|| {
            self.grow(len);
            self.free.len() - 1
        });
        let free = &mut self.free[i];
        let place = Place { len, ..*free };
        free.start += len;
        free.len -= len;
        if free.len == 0 {
            self.free.remove(i);
        }
        self.used += len;
        place
    }

    fn grow(&mut self, len: usize) {
        let segment = Segment::new(len).unwrap_or_else(|| {
            let bytes = len.saturating_mul(size_of::<Block<R>>());
            panic!("no memory for {bytes} bytes of feature maps")
        });
        self.add(segment, len);
    }

    fn add(&mut self, segment: Segment<R>, len: usize) {
        self.free.push(Place {
            segment: self.all.len(),
            start: 0,
            len,
        });
        self.all.push(segment);
    }

    fn give_back(&mut self, place: Place) {
        self.used -= place.len;
        let i = self.free.partition_point(|free| *free < place);
        self.free.insert(i, place);
        // With the next one first, so that `i` stays what it is.
        for i in [i + 1, i] {
            let pair = i.checked_sub(1).and_then(|j| self.free.get_mut(j..=i));
            if let Some([left, right]) = pair
                && left.segment == right.segment
                && left.start + left.len == right.start
            {
                left.len += right.len;
                self.free.remove(i);
            }
        }
    }
}

/// Memory of its own, zeros at first: the system gives it page by page, when it is written to.
#[derive(Debug)]
struct Segment<R> {
    start: *mut Block<R>,
    allocation: *mut u8,
    layout: Layout,
}

// SAFETY: it owns its memory, as a vector does.
unsafe impl<R: Real> Send for Segment<R> {}

impl<R: Real> Segment<R> {
    /// None if the system has not as much.
    fn new(len: usize) -> Option<Self> {
        // Asked for zeros at a block's alignment, the standard library would write them; so a block more, and aligned
        // here.
        let bytes = len.checked_add(1)?.checked_mul(size_of::<Block<R>>())?;
        let layout = Layout::from_size_align(bytes, size_of::<R>()).ok()?;
        // SAFETY: the layout is of one block at least.
        let allocation = unsafe { alloc::alloc_zeroed(layout) };
        if allocation.is_null() {
            return None;
        }
        let before = allocation.align_offset(align_of::<Block<R>>());
        Some(Self {
            // SAFETY: less than a block from the beginning of an allocation that is a block too long.
            start: unsafe { allocation.add(before) }.cast(),
            allocation,
            layout,
        })
    }
}

impl<R> Drop for Segment<R> {
    fn drop(&mut self) {
        // SAFETY: allocated by `new` with this layout; nobody uses it, as segments are dropped only when `used` is 0.
        unsafe { alloc::dealloc(self.allocation, self.layout) }
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
        // SAFETY: the place lies within its segment, which is not freed while a part of it is in use; zeros are numbers,
        // and no other `Maps` overlaps it.
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

    const fn of(h: usize) -> Size {
        Size { n: 1, h, w: 1 }
    }

    #[test]
    fn what_is_given_back_is_used_again_whole_or_in_parts() {
        let block = |x: f64| Block([x; 16]);
        ARENA.expect(of(1), 150);
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
        assert_eq!(ARENA.lock().all.len(), 1);
        let more = ARENA.take(7); // than was expected
        assert_eq!(ARENA.lock().all.len(), 2);
        ARENA.expect(of(2), 10); // in use: nothing happens
        assert_eq!(ARENA.lock().all.len(), 2);
        drop((whole, second, more));
        assert_eq!(ARENA.lock().free.len(), 2);
        ARENA.expect(of(2), 10);
        assert_eq!(ARENA.lock().all.len(), 1);
        assert_eq!(ARENA.take(10).len(), 10);
    }
}
