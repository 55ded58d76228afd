//! How many requests a caller may make: a token bucket for each, as the generic cell rate algorithm keeps it, in one number.
//!
//! A bucket is one for all workers, so its count is exact. A connection finds its bucket once, behind a lock, and keeps it;
//! each request is one compare-and-swap. Pure: now is an argument.

use postern_config::{CountedBy, RateLimit, SpiffeId};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Buckets of one limit. The callers beyond share one: a flood of addresses costs no memory, and does not get more than one
/// caller may.
const BUCKETS_MAX: usize = 16_384;
/// When all are in use, it is not looked for others at each new connection.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// The limit of a port or route, with its buckets. Kept over reloads as long as the file says the same.
pub struct Limiter {
    pub limit: RateLimit,
    /// Times in buckets are counted from here.
    begun: Instant,
    everyone: Arc<Bucket>,
    buckets: Mutex<Buckets>,
}

#[derive(Default)]
struct Buckets {
    by_caller: HashMap<Caller, Arc<Bucket>>,
    swept: Option<Instant>,
}

/// Whose requests are counted together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Caller {
    Identity(SpiffeId),
    /// IPv4, or the first 64 bits of IPv6: who has one address there has all of them.
    Source(IpAddr),
}

/// When the bucket will be full again, in nanoseconds: GCRA's theoretical arrival time.
#[derive(Default)]
pub struct Bucket(AtomicU64);

/// There is none left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limited {
    /// When there will be one.
    pub after: Duration,
}

impl Limiter {
    pub fn new(limit: RateLimit, begun: Instant) -> Self {
        Self { limit, begun, everyone: Arc::default(), buckets: Mutex::default() }
    }

    /// The bucket of a caller, for as long as its connection lives.
    pub fn bucket(&self, identity: Option<&SpiffeId>, source: Option<IpAddr>, now: Instant) -> Arc<Bucket> {
        let caller = match (self.limit.by, identity, source) {
            (CountedBy::Everyone, ..) | (CountedBy::Source, _, None) | (CountedBy::Identity, None, None) => {
                return self.everyone.clone();
            }
            (CountedBy::Identity, Some(identity), _) => Caller::Identity(identity.clone()),
            (CountedBy::Identity | CountedBy::Source, _, Some(source)) => Caller::Source(network(source)),
        };
        // Each statement below leaves it whole, so a panic elsewhere does not make it wrong.
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bucket) = buckets.by_caller.get(&caller) {
            return bucket.clone();
        }
        if buckets.by_caller.len() >= BUCKETS_MAX && buckets.may_sweep(now) {
            let now = self.nanoseconds(now);
            // A full bucket that nobody holds is as good as a new one.
            buckets.by_caller.retain(|_, bucket| Arc::strong_count(bucket) > 1 || bucket.0.load(Relaxed) > now);
        }
        if buckets.by_caller.len() >= BUCKETS_MAX {
            return self.everyone.clone();
        }
        buckets.by_caller.entry(caller).or_default().clone()
    }

    /// Takes one out of `bucket`.
    ///
    /// # Errors
    /// There is none: nothing was taken.
    pub fn take(&self, bucket: &Bucket, now: Instant) -> Result<(), Limited> {
        let RateLimit { requests, per, burst, .. } = self.limit;
        let now = self.nanoseconds(now);
        let each = nanoseconds(per) / u64::from(requests);
        let room = each.saturating_mul(burst.into());
        let mut full_at = bucket.0.load(Relaxed);
        loop {
            let then = full_at.max(now).saturating_add(each);
            if let Some(missing) = then.checked_sub(now.saturating_add(room)).filter(|missing| *missing > 0) {
                return Err(Limited { after: Duration::from_nanos(missing) });
            }
            match bucket.0.compare_exchange_weak(full_at, then, Relaxed, Relaxed) {
                Ok(_) => return Ok(()),
                Err(other) => full_at = other,
            }
        }
    }

    fn nanoseconds(&self, now: Instant) -> u64 {
        nanoseconds(now.saturating_duration_since(self.begun))
    }
}

impl Buckets {
    fn may_sweep(&mut self, now: Instant) -> bool {
        let may = self.swept.is_none_or(|swept| now.saturating_duration_since(swept) >= SWEEP_EVERY);
        if may {
            self.swept = Some(now);
        }
        may
    }
}

/// 584 years of them fit.
fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) >> 64 << 64).into()),
        four => four,
    }
}

#[cfg(test)]
mod tests {
    use super::{BUCKETS_MAX, Limiter, SWEEP_EVERY};
    use postern_config::{CountedBy, RateLimit, SpiffeId};
    use std::net::{IpAddr, Ipv4Addr};
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    fn limiter(requests: u32, per: Duration, burst: u32, by: CountedBy) -> (Limiter, Instant) {
        let begun = Instant::now();
        (Limiter::new(RateLimit { requests, per, burst, by }, begun), begun)
    }

    #[test]
    fn a_burst_then_one_for_each_part_of_the_time() {
        let (limiter, begun) = limiter(10, Duration::from_secs(1), 3, CountedBy::Everyone);
        let bucket = limiter.bucket(None, None, begun);
        let at = |milliseconds: u64| limiter.take(&bucket, begun + Duration::from_millis(milliseconds));
        for _ in 0..3 {
            assert_eq!(at(0), Ok(()));
        }
        assert_eq!(at(0).expect_err("empty").after, Duration::from_millis(100));
        assert_eq!(at(99).expect_err("not yet").after, Duration::from_millis(1));
        assert_eq!(at(100), Ok(()));
        assert!(at(100).is_err(), "what was refused took nothing, what was taken is gone");
        // However long nobody asks, no more than the burst.
        let late = 3_600_000;
        assert_eq!((0..10).filter(|_| at(late).is_ok()).count(), 3);
        // In the long run so many a second.
        let taken = (0..10_000).filter(|step| at(late + 1000 + step).is_ok()).count();
        assert!((102..=103).contains(&taken), "{taken}");
        // A clock that goes back gives nothing away.
        assert!(at(0).is_err());
    }

    #[test]
    fn callers_are_counted_by_what_the_file_says() {
        let id = |name: &str| SpiffeId::parse(&format!("spiffe://shop.example/{name}")).expect("an ID");
        let address = |text: &str| Some(text.parse::<IpAddr>().expect("an address"));
        let (a, b) = (id("a"), id("b"));
        let (one, two) = (address("192.0.2.1"), address("192.0.2.2"));
        for (by, same, different) in [
            (CountedBy::Identity, ((Some(&a), one), (Some(&a), two)), ((Some(&a), one), (Some(&b), one))),
            (CountedBy::Identity, ((None, one), (None, one)), ((None, one), (None, two))),
            (CountedBy::Identity, ((None, one), (None, one)), ((None, one), (Some(&a), one))),
            (CountedBy::Source, ((Some(&a), one), (Some(&b), one)), ((Some(&a), one), (Some(&a), two))),
            (
                CountedBy::Source,
                ((None, address("2001:db8::1")), (None, address("2001:db8::ffff:1"))),
                ((None, address("2001:db8::1")), (None, address("2001:db8:0:1::1"))),
            ),
            (CountedBy::Source, ((None, one), (None, address("::ffff:192.0.2.1"))), ((None, one), (None, two))),
        ] {
            let (limiter, now) = limiter(1, Duration::from_secs(1), 1, by);
            let bucket =
                |(identity, source): (Option<&SpiffeId>, Option<IpAddr>)| limiter.bucket(identity, source, now);
            assert!(Arc::ptr_eq(&bucket(same.0), &bucket(same.1)), "{by:?} {same:?}");
            assert!(!Arc::ptr_eq(&bucket(different.0), &bucket(different.1)), "{by:?} {different:?}");
        }
    }

    #[test]
    fn ds_16_a_flood_of_addresses_costs_no_memory_and_gets_no_more_than_one() {
        let (limiter, begun) = limiter(1, Duration::from_secs(10), 1, CountedBy::Source);
        let nth = |number: usize| Some(IpAddr::from(Ipv4Addr::from(u32::try_from(number).expect("an address"))));
        let used = |number, now| {
            let bucket = limiter.bucket(None, nth(number), now);
            limiter.take(&bucket, now)
        };
        assert!((0..BUCKETS_MAX).all(|number| used(number, begun).is_ok()));
        assert_eq!(used(BUCKETS_MAX, begun), Ok(()));
        assert!(used(BUCKETS_MAX + 1, begun).is_err(), "the others share one");
        assert!(used(0, begun).is_err(), "and nobody's count is lost");
        // When they are full again they are forgotten, but for those in use.
        let later = begun + Duration::from_secs(11) + SWEEP_EVERY;
        let held = limiter.bucket(None, nth(0), later);
        assert_eq!(used(BUCKETS_MAX + 2, later), Ok(()));
        assert_eq!(limiter.buckets.lock().expect("whole").by_caller.len(), 2);
        assert!(Arc::ptr_eq(&held, &limiter.bucket(None, nth(0), later)));
    }

    /// From many threads together, no more than there is.
    #[test]
    fn workers_share_a_bucket_and_its_count_is_exact() {
        let (limiter, begun) = limiter(1, Duration::from_secs(3600), 1000, CountedBy::Everyone);
        let taken: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        let bucket = limiter.bucket(None, None, begun);
                        (0..1000).filter(|_| limiter.take(&bucket, begun).is_ok()).count()
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().expect("joins")).sum()
        });
        assert_eq!(taken, 1000);
    }
}
