//! Whether and when an instance runs again whose command, guest or monitor has ended: a pure function of how it ended.

use serde::{Deserialize, Serialize};

use crate::stop_reason::StopReason;

/// Wait before the first restart, milliseconds; doubled with each failure in a row.
const FIRST_DELAY_MS: u64 = 500;
/// Longest wait, milliseconds.
const LONGEST_DELAY_MS: u64 = 60_000;
/// A run of at least so long was no failure to start, milliseconds: the next wait is the first again.
const STEADY_MS: i64 = 10_000;
/// So many failures in a row are called a crash loop.
const CRASH_LOOP: u32 = 3;

/// When a command that has ended is executed again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RestartPolicy {
    /// Never.
    #[default]
    No,
    /// When it failed: at most so many times in a row, if a number is given.
    OnFailure(Option<u32>),
    /// However it ended.
    Always,
}

/// How often in a row the command ended soon after its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attempts {
    /// Ends in a row.
    pub in_a_row: u32,
    /// When the next attempt is due, if one is; milliseconds since 1970.
    pub next_ms: Option<i64>,
}

/// How a run ended. Times are milliseconds since 1970.
#[derive(Debug, Clone, Copy)]
pub struct RunEnd<'a> {
    /// Why.
    pub reason: Option<&'a StopReason>,
    /// Its exit code, if it came to one.
    pub exit_code: Option<i32>,
    /// When the command was executed, if it was.
    pub started_ms: Option<i64>,
    /// When it ended.
    pub now_ms: i64,
}

/// Whether somebody, or a rule, wanted the end. Nothing of that kind is ever taken back by a restart.
fn was_wanted(reason: &StopReason) -> bool {
    let wanted =
        ["stopped", "disabled", "deleted", "restarted", "restored", "daemon_stopped", "timeout", "lifetime"];
    reason.is_idle() || wanted.contains(&reason.code.as_str())
}

impl Attempts {
    /// What comes after an end.
    #[must_use]
    pub fn after(self, policy: RestartPolicy, ended: &RunEnd<'_>) -> Attempts {
        let Some(reason) = ended.reason.filter(|reason| !was_wanted(reason)) else {
            return Attempts::default();
        };
        let failed = ended.exit_code != Some(0) || reason.code != "exited";
        let steady =
            ended.started_ms.is_some_and(|started| ended.now_ms.saturating_sub(started) >= STEADY_MS);
        let in_a_row = if steady { 1 } else { self.in_a_row.saturating_add(1) };
        let again = match policy {
            RestartPolicy::No => false,
            RestartPolicy::Always => true,
            RestartPolicy::OnFailure(most) => failed && most.is_none_or(|most| in_a_row <= most),
        };
        let delay = FIRST_DELAY_MS.saturating_mul(1 << (in_a_row - 1).min(16)).min(LONGEST_DELAY_MS);
        let next_ms = again.then(|| ended.now_ms.saturating_add(i64::try_from(delay).unwrap_or(i64::MAX)));
        let counts = failed || policy == RestartPolicy::Always;
        Attempts { in_a_row: if counts { in_a_row } else { 0 }, next_ms }
    }

    /// What users should know: a command that ends again and again.
    #[must_use]
    pub fn condition(&self) -> Option<String> {
        (self.in_a_row >= CRASH_LOOP).then(|| format!("crash loop: ended {} times in a row", self.in_a_row))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn exited(code: i32) -> StopReason {
        StopReason::new("exited", format!("the command exited with code {code}"))
    }

    fn after(policy: RestartPolicy, before: Attempts, reason: &StopReason, code: Option<i32>) -> Attempts {
        let ended = RunEnd { reason: Some(reason), exit_code: code, started_ms: Some(0), now_ms: 100 };
        before.after(policy, &ended)
    }

    #[test]
    fn each_policy_does_what_its_name_says() {
        let none = Attempts::default();
        let next = |policy, code| after(policy, none, &exited(code), Some(code)).next_ms;
        assert_eq!(next(RestartPolicy::No, 1), None);
        assert_eq!(next(RestartPolicy::OnFailure(None), 0), None);
        assert_eq!(next(RestartPolicy::OnFailure(None), 1), Some(600));
        assert_eq!(next(RestartPolicy::Always, 0), Some(600));
        let died = StopReason::new("vmm_died", "gone");
        assert!(after(RestartPolicy::OnFailure(None), none, &died, None).next_ms.is_some());
    }

    #[test]
    fn failures_in_a_row_wait_longer_and_are_told() {
        let mut attempts = Attempts::default();
        let mut waits = Vec::new();
        for _ in 0..9 {
            attempts = after(RestartPolicy::Always, attempts, &exited(1), Some(1));
            waits.push(attempts.next_ms.unwrap() - 100);
        }
        assert_eq!(waits, [500, 1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000]);
        assert_eq!(attempts.condition().unwrap(), "crash loop: ended 9 times in a row");
        let steady =
            RunEnd { reason: Some(&exited(1)), exit_code: Some(1), started_ms: Some(0), now_ms: STEADY_MS };
        assert_eq!(attempts.after(RestartPolicy::Always, &steady).in_a_row, 1);
    }

    #[test]
    fn a_limit_of_attempts_is_kept() {
        let policy = RestartPolicy::OnFailure(Some(2));
        let mut attempts = Attempts::default();
        let mut restarts = 0;
        while restarts < 10 {
            attempts = after(policy, attempts, &exited(1), Some(1));
            if attempts.next_ms.is_none() {
                break;
            }
            restarts += 1;
        }
        assert_eq!(restarts, 2);
    }

    proptest! {
        #[test]
        fn what_was_wanted_is_never_taken_back(pick in 0usize..8, in_a_row in 0u32..99, code in proptest::option::of(0i32..256)) {
            let codes = ["stopped", "disabled", "deleted", "restarted", "daemon_stopped", "timeout", "lifetime", "idle"];
            let before = Attempts { in_a_row, next_ms: Some(1) };
            let attempts = after(RestartPolicy::Always, before, &StopReason::new(codes[pick], ""), code);
            prop_assert_eq!(attempts, Attempts::default());
        }
    }
}
