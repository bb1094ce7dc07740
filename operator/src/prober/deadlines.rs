//! When running probes are out of time.
//!
//! Nearly every probe ends long before its time is up, so a timer for each would be set and cancelled for
//! nothing, and setting one wakes the runtime. Here a limit is an entry in a queue: there is one queue for
//! each length of timeout, and as time only goes forward, each is in order by itself. Entries of probes
//! that have ended are thrown away when they come to the front.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// The limits of all probes. Times are a [`Duration`] since the owner's epoch.
#[derive(Debug, Default)]
pub(super) struct Deadlines {
    queues: BTreeMap<Duration, VecDeque<(Duration, Weak<Limit>)>>,
}

#[derive(Debug, Default)]
struct Limit {
    expired: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

/// Resolves when the time of one probe is up; dropped when the probe has ended.
#[derive(Debug)]
pub(super) struct Expiry(Rc<Limit>);

impl Deadlines {
    /// A limit that ends `timeout` after `now`, which is not before the `now` of any earlier call.
    pub(super) fn start(&mut self, now: Duration, timeout: Duration) -> Expiry {
        let limit = Rc::new(Limit::default());
        self.queues.entry(timeout).or_default().push_back((now + timeout, Rc::downgrade(&limit)));
        Expiry(limit)
    }

    /// Ends the probes whose time is up.
    pub(super) fn expire(&mut self, now: Duration) {
        for queue in self.queues.values_mut() {
            while queue.front().is_some_and(|(at, _)| *at <= now) {
                let limit = queue.pop_front().and_then(|(_, limit)| limit.upgrade());
                if let Some(limit) = limit {
                    limit.expired.set(true);
                    if let Some(waker) = limit.waker.take() {
                        waker.wake();
                    }
                }
            }
        }
    }

    /// When the time of the first of the running probes is up.
    pub(super) fn next(&mut self) -> Option<Duration> {
        for queue in self.queues.values_mut() {
            while queue.front().is_some_and(|(_, limit)| limit.strong_count() == 0) {
                queue.pop_front();
            }
        }
        self.queues.retain(|_, queue| !queue.is_empty());
        self.queues.values().filter_map(|queue| queue.front()).map(|(at, _)| *at).min()
    }
}

impl Future for Expiry {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.0.expired.get() {
            return Poll::Ready(());
        }
        let mut waker = self.0.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            *waker = Some(context.waker().clone());
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn the_first_limit_of_a_running_probe_counts() {
        let mut deadlines = Deadlines::default();
        let first = deadlines.start(ms(0), ms(1000));
        let second = deadlines.start(ms(10), ms(1000));
        let short = deadlines.start(ms(20), ms(300));
        assert_eq!(deadlines.next(), Some(ms(320)));
        drop(short);
        assert_eq!(deadlines.next(), Some(ms(1000)));
        drop(first);
        assert_eq!(deadlines.next(), Some(ms(1010)));
        drop(second);
        assert_eq!(deadlines.next(), None);
        assert!(deadlines.queues.is_empty(), "{deadlines:?}");
    }

    #[test]
    fn a_limit_wakes_its_probe_once_its_time_is_up() {
        let mut deadlines = Deadlines::default();
        let mut early = deadlines.start(ms(0), ms(100));
        let mut late = deadlines.start(ms(1), ms(100));
        let (waker, wakes) = counting_waker();
        let mut context = Context::from_waker(&waker);
        assert!(early.poll_unpin(&mut context).is_pending() && late.poll_unpin(&mut context).is_pending());
        deadlines.expire(ms(99));
        assert_eq!(wakes(), 0);
        deadlines.expire(ms(100));
        assert_eq!(wakes(), 1);
        assert!(early.poll_unpin(&mut context).is_ready() && late.poll_unpin(&mut context).is_pending());
        assert_eq!(deadlines.next(), Some(ms(101)));
    }

    /// A waker that counts.
    fn counting_waker() -> (Waker, impl Fn() -> usize) {
        use std::sync::Arc;
        use std::sync::atomic::{AtomicUsize, Ordering};
        use std::task::Wake;

        struct Count(AtomicUsize);
        impl Wake for Count {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        let count = Arc::new(Count(AtomicUsize::new(0)));
        (Waker::from(count.clone()), move || count.0.load(Ordering::Relaxed))
    }
}
