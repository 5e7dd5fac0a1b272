//! A panic where a unit test asks for one. Nothing of this is in the library that ships.

use std::cell::Cell;

/// A place that can be made to panic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// Inside a C function, before its work.
    Boundary,
    /// Inside a call on a cache, when its state has moved on.
    State,
}

thread_local! {
    static ARMED: Cell<Option<Point>> = const { Cell::new(None) };
}

/// Makes this thread panic when it next comes to `point`, once.
pub fn arm(point: Point) {
    ARMED.set(Some(point));
}

/// Panics if this is the point that was armed.
pub fn at(point: Point) {
    if ARMED.get() == Some(point) {
        ARMED.set(None);
        panic!("a test asked for this");
    }
}
