//! Whose request is next: by priority, which grows with waiting, then clients in turn, then a client's tasks in turn, then
//! the oldest.
//!
//! ```text
//! rank = low 0, normal 1, high 2;  + 1 for every AGE of waiting, to 2 at most
//! next = of the highest rank there is: the first client in line that has one, of its tasks the first in line, the oldest
//! ```
//!
//! Who was served goes to the end of the line, clients and tasks alike. So nobody starves: after two `AGE`s a request has
//! the highest rank, then at most every other client is served before its own, and there each other task once in turn.
//! Neither can a client that piles up requests slow another down by more than one request, nor can one of its tasks slow
//! the others.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tern_protocol::request::Priority;

use super::requester::ClientId;

/// Waiting that is worth one priority.
pub const AGE: Duration = Duration::from_secs(10);

/// What must be known of a request to put it in line.
pub trait InLine {
    /// Whose it is.
    fn client(&self) -> ClientId;
    /// Its task, if that has a name.
    fn task(&self) -> Option<&str>;
    /// How it goes beside others.
    fn priority(&self) -> Priority;
    /// Since when it waits.
    fn since(&self) -> Instant;
}

/// Requests of one client for one task, the oldest first.
#[derive(Debug)]
struct Line<J> {
    task: Option<String>,
    jobs: VecDeque<J>,
}

/// Requests of one client, the task in front next.
#[derive(Debug)]
struct Client<J> {
    id: ClientId,
    lines: VecDeque<Line<J>>,
}

/// All that waits, the client in front next.
#[derive(Debug)]
pub struct Turns<J> {
    clients: VecDeque<Client<J>>,
}

impl<J> Default for Turns<J> {
    fn default() -> Self {
        Turns { clients: VecDeque::new() }
    }
}

/// How pressing a request is; `None` if it has low priority and has waited for less than `low_after`.
fn rank(job: &impl InLine, now: Instant, low_after: Duration) -> Option<u64> {
    let waited = now.saturating_duration_since(job.since());
    let class = match job.priority() {
        Priority::Low if waited < low_after => return None,
        Priority::Low => 0,
        Priority::Normal => 1,
        Priority::High => 2,
    };
    Some((class + waited.as_secs() / AGE.as_secs()).min(2))
}

impl<J: InLine> Turns<J> {
    /// All that waits, in no order of use.
    pub fn iter(&self) -> impl Iterator<Item = &J> {
        self.clients.iter().flat_map(|client| &client.lines).flat_map(|line| &line.jobs)
    }

    /// Requests of a client.
    pub fn of_client(&self, client: ClientId) -> usize {
        let client = self.clients.iter().find(|known| known.id == client);
        client.map_or(0, |client| client.lines.iter().map(|line| line.jobs.len()).sum())
    }

    /// Puts a request behind those of its client and task.
    pub fn push(&mut self, job: J) {
        let id = job.client();
        let client = match self.clients.iter().position(|known| known.id == id) {
            Some(at) => &mut self.clients[at],
            None => {
                self.clients.push_back(Client { id, lines: VecDeque::new() });
                self.clients.back_mut().expect("just put there")
            }
        };
        match client.lines.iter_mut().find(|line| line.task.as_deref() == job.task()) {
            Some(line) => line.jobs.push_back(job),
            None => {
                let task = job.task().map(str::to_owned);
                client.lines.push_back(Line { task, jobs: VecDeque::from([job]) });
            }
        }
    }

    /// Gives back a request that was taken too early: it is the next of its rank again.
    pub fn put_back(&mut self, job: J) {
        let id = job.client();
        let at = self.clients.iter().position(|known| known.id == id);
        let mut client =
            at.and_then(|at| self.clients.remove(at)).unwrap_or(Client { id, lines: VecDeque::new() });
        let at = client.lines.iter().position(|line| line.task.as_deref() == job.task());
        let mut line = at
            .and_then(|at| client.lines.remove(at))
            .unwrap_or_else(|| Line { task: job.task().map(str::to_owned), jobs: VecDeque::new() });
        line.jobs.push_front(job);
        client.lines.push_front(line);
        self.clients.push_front(client);
    }

    /// Takes the next request; those of low priority only once they have waited for `low_after`.
    pub fn pop(&mut self, now: Instant, low_after: Duration) -> Option<J> {
        let best = self.iter().filter_map(|job| rank(job, now, low_after)).max()?;
        let is_best = |job: &J| rank(job, now, low_after) == Some(best);
        let place = |client: &Client<J>| {
            client
                .lines
                .iter()
                .enumerate()
                .find_map(|(line, jobs)| jobs.jobs.iter().position(is_best).map(|job| (line, job)))
        };
        let (at, (line, job)) = self
            .clients
            .iter()
            .enumerate()
            .find_map(|(at, client)| place(client).map(|place| (at, place)))?;
        let mut client = self.clients.remove(at)?;
        let mut line = client.lines.remove(line)?;
        let job = line.jobs.remove(job);
        if !line.jobs.is_empty() {
            client.lines.push_back(line);
        }
        if !client.lines.is_empty() {
            self.clients.push_back(client);
        }
        job
    }

    /// Takes every request that `unwanted` says is not wanted any more.
    pub fn remove(&mut self, unwanted: impl Fn(&J) -> bool) -> Vec<J> {
        let mut removed = Vec::new();
        // Asked before every step of the engine, and mostly for nothing.
        if !self.iter().any(&unwanted) {
            return removed;
        }
        for line in self.clients.iter_mut().flat_map(|client| &mut client.lines) {
            let (gone, kept) =
                std::mem::take(&mut line.jobs).into_iter().partition::<Vec<_>, _>(|job| unwanted(job));
            line.jobs = kept.into();
            removed.extend(gone);
        }
        self.clients.iter_mut().for_each(|client| client.lines.retain(|line| !line.jobs.is_empty()));
        self.clients.retain(|client| !client.lines.is_empty());
        removed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;
    use std::collections::BTreeMap;

    #[derive(Clone, Debug, PartialEq)]
    struct Asked {
        client: ClientId,
        task: String,
        priority: Priority,
        since: Instant,
        /// Requests of its client and task before it.
        ahead: usize,
    }

    impl InLine for Asked {
        fn client(&self) -> ClientId {
            self.client
        }
        fn task(&self) -> Option<&str> {
            Some(&self.task)
        }
        fn priority(&self) -> Priority {
            self.priority
        }
        fn since(&self) -> Instant {
            self.since
        }
    }

    fn asked(client: ClientId, task: &str, priority: Priority, since: Instant) -> Asked {
        Asked { client, task: task.into(), priority, since, ahead: 0 }
    }

    #[test]
    fn priorities_go_first_until_others_have_waited_long_enough() {
        let now = Instant::now();
        let mut turns = Turns::default();
        for (task, priority) in [("l", Priority::Low), ("n", Priority::Normal), ("h", Priority::High)] {
            turns.push(asked(1, task, priority, now));
        }
        let order: Vec<_> =
            std::iter::from_fn(|| turns.pop(now, Duration::ZERO)).map(|job| job.task).collect();
        assert_eq!(order, ["h", "n", "l"]);
        turns.push(asked(1, "old", Priority::Low, now));
        turns.push(asked(2, "young", Priority::High, now + 2 * AGE));
        let first = turns.pop(now + 2 * AGE, Duration::ZERO).expect("two wait");
        assert_eq!(first.task, "old", "of one rank, and first in line");
    }

    #[test]
    fn low_priority_can_be_made_to_wait() {
        let now = Instant::now();
        let mut turns = Turns::default();
        turns.push(asked(1, "l", Priority::Low, now));
        assert_eq!(turns.pop(now, AGE), None);
        turns.push(asked(1, "n", Priority::Normal, now));
        assert_eq!(turns.pop(now, AGE).map(|job| job.task).as_deref(), Some("n"));
        assert_eq!(turns.pop(now + AGE, AGE).map(|job| job.task).as_deref(), Some("l"));
    }

    #[test]
    fn what_was_taken_too_early_is_next_again() {
        let now = Instant::now();
        let mut turns = Turns::default();
        for (client, task) in [(1, "a"), (1, "b"), (2, "c")] {
            turns.push(asked(client, task, Priority::Normal, now));
        }
        let first = turns.pop(now, Duration::ZERO).expect("three wait");
        turns.put_back(first.clone());
        assert_eq!(turns.pop(now, Duration::ZERO), Some(first));
    }

    const TASKS: [&str; 3] = ["a", "b", "c"];

    /// Serves random requests of `clients`, one at a time, and checks how long each waited; returns what each client got of
    /// each task.
    fn schedule(seed: u64, clients: u64) -> BTreeMap<(ClientId, String), usize> {
        const SERVICE: Duration = Duration::from_millis(500);
        let mut random = Random::new(seed);
        let (mut turns, mut now) = (Turns::<Asked>::default(), Instant::now());
        let mut served = BTreeMap::new();
        for round in 0..4000 {
            // More than can be served comes for most of the time, and of the highest priority most of all.
            while round < 3500 && turns.iter().count() < 30 {
                let client = 1 + u64::from(random.below(clients as u32));
                let task = TASKS[random.below(3) as usize];
                let priority = [Priority::Low, Priority::Normal, Priority::High, Priority::High];
                let ahead = turns.iter().filter(|job| job.client == client && job.task == task).count();
                let priority = priority[random.below(4) as usize];
                turns.push(Asked { ahead, ..asked(client, task, priority, now) });
            }
            if random.below(9) == 0 {
                turns.remove(|job| job.client == 1 && job.task == "c" && job.since == now);
            }
            let low_after = if random.below(2) == 0 { AGE } else { Duration::ZERO };
            now += SERVICE;
            let Some(job) = turns.pop(now, low_after) else { continue };
            if random.below(20) == 0 {
                turns.put_back(job);
                continue;
            }
            // Two ages to the highest rank, then a turn of all clients and tasks for each before it; some turns
            // come to nothing.
            let turn = SERVICE * (clients as u32 * TASKS.len() as u32) * 2;
            let bound = 2 * AGE + turn * (job.ahead as u32 + 1);
            assert!(
                now - job.since <= bound,
                "seed {seed}: {job:?} waited {:?} of {bound:?}",
                now - job.since
            );
            *served.entry((job.client, job.task)).or_insert(0) += 1;
        }
        assert_eq!(turns.iter().count(), 0, "seed {seed}: everybody is served");
        served
    }

    #[test]
    fn nobody_starves_in_random_schedules() {
        for seed in 0..40 {
            let clients = 2 + seed % 5;
            let served = schedule(seed, clients);
            assert_eq!(served.len() as u64, 3 * clients, "seed {seed}");
        }
    }

    #[test]
    fn clients_and_their_tasks_get_equal_parts_whatever_they_pile_up() {
        let now = Instant::now();
        let mut turns = Turns::default();
        for (client, task, count) in [(1, "a", 300), (1, "b", 20), (2, "a", 60), (3, "c", 35)] {
            (0..count).for_each(|_| turns.push(asked(client, task, Priority::Normal, now)));
        }
        let mut served = BTreeMap::new();
        for _ in 0..90 {
            let job = turns.pop(now, Duration::ZERO).expect("more wait");
            *served.entry((job.client, job.task)).or_insert(0) += 1;
        }
        let expected = [((1, "a"), 15), ((1, "b"), 15), ((2, "a"), 30), ((3, "c"), 30)];
        let expected: BTreeMap<_, _> =
            expected.into_iter().map(|((client, task), count)| ((client, task.to_owned()), count)).collect();
        assert_eq!(served, expected);
    }
}
