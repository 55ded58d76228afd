//! All products of a round at once, taking turns of a fraction of a second.
//!
//! On a machine that does other things too, a measurement of some seconds meets other neighbours than the next one, and
//! figures of CPU time differ by a third. So all pairs are up, and all loads but one are stopped (SIGSTOP): whatever else the
//! machine does, it does to all of them. A pair without load spends next to nothing.

use super::pair::{Plan, Scene};
use super::peers::Product;
use super::round::{Round, Spent};
use super::scenario::{Figure, Scenario};
use std::time::Duration;

const TURN: Duration = Duration::from_millis(250);

/// Latency needs its own time, idle connections no time at all, and bulk goes on into the buffers of a stopped load.
pub fn suits(scenario: &Scenario) -> bool {
    scenario.figure == Figure::CpuPerUnit
}

struct Runner {
    index: usize,
    scene: Scene,
    spent: Spent,
}

/// A figure or a failure for each of `products`; those that are `None` are not asked.
pub fn measure(
    plan: &Plan<'_>,
    scenario: &Scenario,
    products: &[Option<&dyn Product>],
) -> Vec<Option<anyhow::Result<Round>>> {
    let mut figures: Vec<Option<anyhow::Result<Round>>> = products.iter().map(|_| None).collect();
    let mut runners = Vec::new();
    for (index, product) in products.iter().enumerate().filter(|(_, product)| product.is_some()) {
        let started = Scene::start(plan, scenario, *product, &["--until-told"]).and_then(|scene| {
            // The rest of the warm-up of others, this one waits.
            let spent = scene.turn(TURN)?;
            Ok(Runner { index, scene, spent })
        });
        match started {
            Ok(runner) => runners.push(runner),
            Err(error) => figures[index] = Some(Err(error)),
        }
    }
    let turns = ((plan.seconds / TURN.as_secs_f64()) as usize).max(1);
    for _ in 1..turns {
        runners.retain_mut(|runner| match runner.scene.turn(TURN) {
            Ok(spent) => {
                runner.spent.add(&spent);
                true
            }
            Err(error) => {
                figures[runner.index] = Some(Err(error));
                false
            }
        });
    }
    for runner in runners {
        let seconds = turns as f64 * TURN.as_secs_f64();
        figures[runner.index] = Some(runner.scene.finish(scenario, &runner.spent, seconds));
    }
    figures
}
