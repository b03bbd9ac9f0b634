//! Makes a plan that breaks a rule as short as it can.

use super::plan::{Plan, Step, Watcher};

/// Leaves out of a plan whatever can be left out while `breaks` says that it still breaks the rule:
/// faults first, then operations, then watchers and latency. Asks at most `tries` times.
pub async fn shrink(plan: Plan, mut tries: usize, mut breaks: impl AsyncFnMut(&Plan) -> bool) -> Plan {
    let mut best = plan;
    loop {
        let before = size(&best);
        let strikes = best.strikes.clone();
        best.strikes = reduce(strikes, &mut tries, async |strikes| {
            breaks(&Plan { strikes: strikes.to_vec(), ..best.clone() }).await
        })
        .await;
        let steps: Vec<(usize, Step)> = best
            .workers
            .iter()
            .enumerate()
            .flat_map(|(worker, own)| own.steps.iter().map(move |step| (worker, *step)))
            .collect();
        let steps = reduce(steps, &mut tries, async |steps| breaks(&with_steps(&best, steps)).await).await;
        best = with_steps(&best, &steps);
        let watchers = best.watchers.clone();
        best.watchers = reduce(watchers, &mut tries, async |watchers: &[Watcher]| {
            breaks(&Plan { watchers: watchers.to_vec(), ..best.clone() }).await
        })
        .await;
        if !best.latency.is_zero() && tries > 0 {
            tries -= 1;
            let prompt = Plan { latency: std::time::Duration::ZERO, ..best.clone() };
            if breaks(&prompt).await {
                best = prompt;
            }
        }
        if size(&best) == before || tries == 0 {
            return best;
        }
    }
}

fn size(plan: &Plan) -> usize {
    plan.strikes.len() + plan.operations() + plan.watchers.len() + usize::from(!plan.latency.is_zero())
}

/// The plan with these steps alone. A step that follows on one that was left out keeps its distance
/// from the one before.
fn with_steps(plan: &Plan, steps: &[(usize, Step)]) -> Plan {
    let mut plan = plan.clone();
    for (number, worker) in plan.workers.iter_mut().enumerate() {
        let mut kept = Vec::new();
        let mut skipped = std::time::Duration::ZERO;
        for step in &worker.steps {
            if steps.iter().any(|(of, kept)| *of == number && kept.number == step.number) {
                kept.push(Step { after: step.after + std::mem::take(&mut skipped), ..*step });
            } else {
                skipped += step.after;
            }
        }
        worker.steps = kept;
    }
    plan
}

/// Delta debugging: the fewest items that still fail, found by leaving out ever smaller parts.
async fn reduce<T: Copy>(
    mut items: Vec<T>,
    tries: &mut usize,
    mut fails: impl AsyncFnMut(&[T]) -> bool,
) -> Vec<T> {
    let mut part = items.len();
    while part > 0 && !items.is_empty() {
        let mut start = 0;
        while start < items.len() {
            if *tries == 0 {
                return items;
            }
            *tries -= 1;
            let without: Vec<T> = items
                .iter()
                .enumerate()
                .filter(|(index, _)| *index < start || *index >= start + part)
                .map(|(_, item)| *item)
                .collect();
            if fails(&without).await {
                items = without;
            } else {
                start += part;
            }
        }
        part /= 2;
    }
    items
}
