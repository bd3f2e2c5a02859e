//! What the functions' simulations share, for tests: dice, a clock, and points at which workers are cut off.
//!
//! A run is decided by its seed alone, so that a failing one replays: `SIMULATION_SEED=7 cargo test -p push simulation`.

use std::{
    future::Future,
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use futures::future::BoxFuture;

use crate::db::{Db, DbError, Engine, Row, Value};

/// SplitMix64: small, and the same everywhere.
pub struct Dice(u64);

impl Dice {
    /// The same seed, the same rolls.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// One of `0..n`.
    pub fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.roll() % n as u64).unwrap_or_default()
    }

    /// One of `from..to`.
    pub fn between(&mut self, from: i64, to: i64) -> i64 {
        from + (self.roll() % from.abs_diff(to)).cast_signed()
    }

    /// Whether something happens that happens `per_mille` times in a thousand.
    pub fn happens(&mut self, per_mille: u64) -> bool {
        self.roll() % 1000 < per_mille
    }
}

/// What may go wrong.
#[derive(Clone, Copy, Debug)]
pub enum Faults {
    /// Anything, at random; at each point the worker is cut off so many times in a thousand.
    Random(u64),
    /// The worker is cut off at this point of the run, counted from 0, and nothing else happens.
    CutOffAt(usize),
    /// The power is cut at this point, and nothing else happens.
    PowerCutAt(usize),
    /// Nothing.
    None,
}

/// The course of one run, for all that takes part in it.
#[derive(Clone)]
pub struct Course(Arc<Mutex<State>>);

struct State {
    dice: Dice,
    faults: Faults,
    /// Points passed: before and after each effect.
    points: usize,
    now_ms: i64,
    /// The worker whose turn it is has been cut off.
    cut_off: bool,
    tokens: u64,
}

/// How a worker's turn ended.
pub enum Turn<T> {
    /// With what came of it.
    Done(T),
    /// It goes on in another turn.
    Waits,
    /// What it held, it holds until its leases end.
    CutOff,
}

impl Course {
    /// Begins at this time.
    pub fn new(dice: Dice, faults: Faults, now_ms: i64) -> Self {
        Self(Arc::new(Mutex::new(State { dice, faults, points: 0, now_ms, cut_off: false, tokens: 0 })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// [`Dice::below`].
    pub fn below(&self, n: usize) -> usize {
        self.state().dice.below(n)
    }

    /// [`Dice::happens`].
    pub fn happens(&self, per_mille: u64) -> bool {
        self.state().dice.happens(per_mille)
    }

    /// Whether something goes wrong that a caller is told of.
    pub fn fails(&self, per_mille: u64) -> bool {
        matches!(self.faults(), Faults::Random(_)) && self.happens(per_mille)
    }

    /// What may go wrong.
    pub fn faults(&self) -> Faults {
        self.state().faults
    }

    /// From now on everything works. Tells how many points were passed before.
    pub fn heal(&self) -> usize {
        let mut state = self.state();
        state.faults = Faults::None;
        state.points
    }

    /// The time of all that takes part.
    pub fn now_ms(&self) -> i64 {
        self.state().now_ms
    }

    /// So much time passes.
    pub fn pass(&self, ms: i64) {
        self.state().now_ms += ms;
    }

    /// Time passes until then, if it is not later already.
    pub fn pass_until(&self, now_ms: i64) {
        let mut state = self.state();
        state.now_ms = state.now_ms.max(now_ms);
    }

    /// Mostly moments pass, sometimes so much that leases end under the hands of who holds them.
    pub fn pass_some(&self) {
        self.pass(match self.below(100) {
            0 => 120_000,
            1..3 => 6_000,
            3..20 => 300,
            _ => 1,
        });
    }

    /// A number that nobody else has.
    pub fn token(&self) -> u64 {
        let mut state = self.state();
        state.tokens += 1;
        state.tokens
    }

    /// Another worker may come in between.
    pub async fn switch(&self) {
        let mut switched = false;
        std::future::poll_fn(|context| {
            // Futures in a set are polled only when they wake.
            context.waker().wake_by_ref();
            if std::mem::replace(&mut switched, true) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// A point at which the worker may be cut off, for good.
    pub async fn point(&self) {
        if self.is_cut_off_here() {
            std::future::pending::<()>().await;
        }
    }

    fn is_cut_off_here(&self) -> bool {
        let mut state = self.state();
        let here = state.points;
        state.points += 1;
        let cut_off = match state.faults {
            Faults::Random(per_mille) => state.dice.happens(per_mille),
            Faults::CutOffAt(point) | Faults::PowerCutAt(point) => point == here,
            Faults::None => false,
        };
        // Another part of the worker may go on in the same turn, and is cut off with it.
        state.cut_off |= cut_off;
        cut_off
    }

    /// Lets a worker go on until it switches.
    pub fn turn<T>(&self, worker: Pin<&mut (impl Future<Output = T> + ?Sized)>) -> Turn<T> {
        self.state().cut_off = false;
        match worker.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(value) => Turn::Done(value),
            Poll::Pending if self.state().cut_off => Turn::CutOff,
            Poll::Pending => Turn::Waits,
        }
    }
}

/// All that is not the code under test: the course of a run, and what the run does to the world.
pub struct Outside<W> {
    /// For all that takes part.
    pub course: Course,
    world: Arc<Mutex<W>>,
}

impl<W> Outside<W> {
    /// A world as it is at the beginning.
    pub fn new(course: Course, world: W) -> Self {
        Self { course, world: Arc::new(Mutex::new(world)) }
    }

    /// The world, which nobody else changes meanwhile.
    pub fn world(&self) -> MutexGuard<'_, W> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<W> Clone for Outside<W> {
    fn clone(&self) -> Self {
        Self { course: self.course.clone(), world: Arc::clone(&self.world) }
    }
}

/// A database with points around every statement, which now and then is busy.
pub struct Pointed {
    /// What runs the statements.
    pub db: Db,
    /// Whose points they are.
    pub course: Course,
}

impl Engine for Pointed {
    fn run<'a>(&'a self, sql: &'a str, values: Vec<Value>) -> BoxFuture<'a, Result<Vec<Row>, DbError>> {
        Box::pin(async move {
            self.course.switch().await;
            self.course.point().await;
            if self.course.fails(10) {
                return Err(DbError::Busy);
            }
            let result = self.db.query(sql, values).await;
            self.course.point().await;
            result
        })
    }
}

/// Runs alone what only switches, to its end.
pub fn run_alone<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return value;
        }
    }
}

/// A function's simulation.
pub struct Simulated {
    /// Where it is, for who replays it.
    pub package: &'static str,
    /// Runs a seed to its end, and returns how many points it passed before the faults ended.
    pub run: fn(u64, Faults) -> usize,
}

impl Simulated {
    /// With anything that may go wrong, for so many seeds, or `SIMULATION_SEEDS`, or the one `SIMULATION_SEED`.
    pub fn with_random_faults(&self, seeds: u64, cut_off_per_mille: u64) {
        let seeds = asked(number("SIMULATION_SEEDS").unwrap_or(seeds));
        println!("seeds {seeds:?}");
        self.each(seeds, cut_off_per_mille);
    }

    fn each(&self, seeds: std::ops::Range<u64>, cut_off_per_mille: u64) {
        for seed in seeds {
            self.named(seed, Faults::Random(cut_off_per_mille));
        }
    }

    /// With one fault, of each of these kinds, at every point.
    ///
    /// # Panics
    /// If a run has few points.
    pub fn with_a_fault_at_every_point(&self, seeds: u64, kinds: &[fn(usize) -> Faults]) {
        for seed in asked(seeds) {
            let points = self.named(seed, Faults::None);
            assert!(points > 100, "there is little to cut off: {points}");
            for (point, kind) in (0..points).flat_map(|point| kinds.iter().map(move |kind| (point, kind))) {
                self.named(seed, kind(point));
            }
        }
    }

    /// Says which seed it was if it fails.
    fn named(&self, seed: u64, faults: Faults) -> usize {
        std::panic::catch_unwind(|| (self.run)(seed, faults)).unwrap_or_else(|panic| {
            eprintln!("{faults:?}: SIMULATION_SEED={seed} cargo test -p {} simulation", self.package);
            std::panic::resume_unwind(panic)
        })
    }
}

/// The seed that is asked for, or the first ones.
fn asked(seeds: u64) -> std::ops::Range<u64> {
    number("SIMULATION_SEED").map_or(0..seeds, |seed| seed..seed + 1)
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(faults: Faults) -> (usize, bool) {
        let course = Course::new(Dice::new(1), faults, 0);
        let worker = async {
            for _ in 0..3 {
                course.point().await;
            }
        };
        let cut_off = matches!(course.turn(pin!(worker)), Turn::CutOff);
        (course.heal(), cut_off)
    }

    #[test]
    fn a_worker_is_cut_off_at_its_point_and_nowhere_else() {
        for point in 0..3 {
            assert_eq!(points(Faults::CutOffAt(point)), (point + 1, true));
        }
        assert_eq!(points(Faults::CutOffAt(3)), (3, false));
        assert_eq!(points(Faults::None), (3, false));
        assert_eq!(points(Faults::Random(1_000)), (1, true));
    }

    #[test]
    fn a_worker_waits_where_it_switches() {
        let course = Course::new(Dice::new(1), Faults::None, 0);
        let mut worker = pin!(course.switch());
        assert!(matches!(course.turn(worker.as_mut()), Turn::Waits));
        assert!(matches!(course.turn(worker.as_mut()), Turn::Done(())));
    }

    #[test]
    fn a_seed_that_fails_fails() {
        let simulated =
            Simulated { package: "shared", run: |seed, _| if seed < 2 { 1 } else { panic!("as it should") } };
        assert!(std::panic::catch_unwind(|| simulated.each(0..2, 8)).is_ok());
        assert!(std::panic::catch_unwind(|| simulated.each(0..3, 8)).is_err());
        assert!(std::panic::catch_unwind(|| simulated.with_a_fault_at_every_point(1, &[Faults::CutOffAt])).is_err());
    }

    #[test]
    fn dice_stay_within_their_bounds() {
        let mut dice = Dice::new(7);
        assert!((0..1_000).all(|_| dice.below(3) < 3 && (-5..5).contains(&dice.between(-5, 5))));
        assert!(!dice.happens(0) && dice.happens(1_000));
    }
}
