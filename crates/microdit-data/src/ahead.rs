//! Reading on a thread of its own, so that a hanging disk does not delay a stop.

use crate::error::DataError;
use std::{
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::Duration,
};

/// Items read ahead.
const AHEAD: usize = 16;

/// How often the stop flag is checked while there is nothing to do.
const PATIENCE: Duration = Duration::from_millis(100);

enum Message<T, R> {
    Item(T),
    End(R),
}

/// Runs `read` on a thread and hands what it sends to `take`, until that returns false. Returns the result of `read`, or
/// nothing if `take` or `stop` ended the wait. To `read`, false means that nobody listens any more.
///
/// # Errors
/// The errors of `take`, and a panic while reading.
pub fn read_ahead<T: Send + 'static, R: Send + 'static>(
    stop: &AtomicBool,
    read: impl FnOnce(&mut dyn FnMut(T) -> bool) -> R + Send + 'static,
    mut take: impl FnMut(T) -> Result<bool, DataError>,
) -> Result<Option<R>, DataError> {
    let (sender, receiver) = mpsc::sync_channel(AHEAD);
    // Not joined: it may hang as long as the disk does.
    thread::spawn(move || {
        let end = read(&mut |item| sender.send(Message::Item(item)).is_ok());
        // The receiver may be gone.
        let _ = sender.send(Message::End(end));
    });
    while !stop.load(Ordering::Relaxed) {
        match receiver.recv_timeout(PATIENCE) {
            Ok(Message::Item(item)) => {
                if !take(item)? {
                    return Ok(None);
                }
            }
            Ok(Message::End(end)) => return Ok(Some(end)),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Err(DataError::Stopped),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn a_reader_that_hangs_does_not_hold_up_a_stop() {
        let stop = AtomicBool::new(false);
        let begun = Instant::now();
        let end = read_ahead(
            &stop,
            |send| {
                send(1);
                thread::sleep(Duration::from_secs(60));
            },
            |_| {
                stop.store(true, Ordering::Relaxed);
                Ok(true)
            },
        );
        assert!(matches!(end, Ok(None)));
        assert!(begun.elapsed() < Duration::from_secs(2));
    }

    #[test]
    fn all_items_are_taken_in_their_order() {
        let mut taken = Vec::new();
        let read = |send: &mut dyn FnMut(usize) -> bool| (0..100).take_while(|&i| send(i)).count();
        let end = read_ahead(&AtomicBool::new(false), read, |item| {
            taken.push(item);
            Ok(true)
        });
        assert!(matches!(end, Ok(Some(100))));
        assert!(taken.into_iter().eq(0..100));
        let enough = read_ahead(&AtomicBool::new(false), read, |item| Ok(item < 3));
        assert!(matches!(enough, Ok(None)));
        let panics = read_ahead(
            &AtomicBool::new(false),
            |_: &mut dyn FnMut(()) -> bool| panic!("as asked"),
            |()| Ok(true),
        );
        assert!(matches!(panics, Err(DataError::Stopped)));
    }
}
