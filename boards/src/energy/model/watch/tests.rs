use super::*;

/// A machine of two CPUs in one frequency domain, whose files a test writes.
struct Tree(tempfile::TempDir);

impl Tree {
    fn new() -> Tree {
        let tree = Tree(tempfile::tempdir().unwrap());
        tree.write("sys/devices/system/cpu/online", "0-1\n");
        tree.write("sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq", "1800000\n");
        tree.write("sys/devices/system/cpu/cpu1/cpufreq/cpuinfo_max_freq", "1800000\n");
        tree
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.0.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn policy(&self, file: &str, text: &str) {
        self.write(&format!("sys/devices/system/cpu/cpufreq/policy0/{file}"), text);
    }

    fn stat(&self, cpus: &[(usize, u64)]) {
        let lines = cpus.iter().map(|(cpu, busy)| format!("cpu{cpu} {busy} 0 0 500 7 0 0 0 0 0\n"));
        self.write("proc/stat", &format!("cpu  1 2 3 4\n{}intr 5\n", lines.collect::<String>()));
    }

    fn watch(&self) -> ActivityWatch {
        self.policy("related_cpus", "0 1\n");
        ActivityWatch::open(&Root::new(self.0.path()), Traffic::default()).unwrap()
    }
}

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn busy(activity: &Activity) -> Vec<(u32, f64)> {
    activity.busy.iter().map(|busy| (busy.mhz, (busy.core_seconds * 1e6).round() / 1e6)).collect()
}

#[test]
fn busy_time_is_split_over_clocks_as_their_domain_was() {
    let tree = Tree::new();
    tree.stat(&[(0, 100), (1, 200)]);
    tree.policy("stats/time_in_state", "600000 1000\n1800000 50\n");
    let mut watch = tree.watch();
    assert_eq!(watch.look(ms(0)).unwrap(), Activity::default());
    tree.stat(&[(0, 180), (1, 210)]);
    tree.policy("stats/time_in_state", "600000 1025\n1800000 125\n");
    watch.traffic().add(5000);
    let activity = watch.look(ms(1000)).unwrap();
    assert_eq!((activity.seconds, activity.bytes), (1.0, 5000.0));
    // 0.9 core-seconds, a quarter of the time at the lower clock.
    assert_eq!(busy(&activity), [(600, 0.225), (1800, 0.675)]);
    assert_eq!(watch.faults(), Faults::default());
}

#[test]
fn without_statistics_the_clock_is_sampled_and_without_that_it_is_the_highest() {
    let tree = Tree::new();
    tree.stat(&[(0, 0), (1, 0)]);
    let mut watch = tree.watch();
    watch.look(ms(0)).unwrap();
    tree.stat(&[(0, 50), (1, 0)]);
    tree.policy("scaling_cur_freq", "1237000\n");
    assert_eq!(busy(&watch.look(ms(500)).unwrap()), [(1300, 0.5)]);
    tree.policy("scaling_cur_freq", "<unknown>\n");
    tree.stat(&[(0, 50), (1, 20)]);
    assert_eq!(busy(&watch.look(ms(1000)).unwrap()), [(1800, 0.2)]);
}

#[test]
fn a_cpu_that_is_switched_off_is_a_gap_and_its_time_is_found_when_it_is_back() {
    let tree = Tree::new();
    tree.stat(&[(0, 0), (1, 0)]);
    let mut watch = tree.watch();
    watch.look(ms(0)).unwrap();
    tree.stat(&[(0, 10)]);
    assert_eq!(busy(&watch.look(ms(100)).unwrap()), [(1800, 0.1)]);
    assert_eq!(watch.faults().gaps, 1);
    tree.stat(&[(0, 10)]);
    watch.look(ms(200)).unwrap();
    assert_eq!(watch.faults().gaps, 1, "a CPU that stays off is no new gap");
    tree.stat(&[(0, 10), (1, 8)]);
    assert_eq!(busy(&watch.look(ms(300)).unwrap()), [(1800, 0.08)]);
    // More than the interval holds cannot be.
    tree.stat(&[(0, 5000), (1, 8)]);
    assert_eq!(busy(&watch.look(ms(400)).unwrap()), [(1800, 0.12)]);
}

#[test]
fn steps_back_and_unreadable_files_are_counted_and_lose_nothing_else() {
    let tree = Tree::new();
    tree.stat(&[(0, 1000), (1, 0)]);
    let mut watch = tree.watch();
    watch.look(ms(0)).unwrap();
    tree.stat(&[(0, 10), (1, 10)]);
    assert_eq!(busy(&watch.look(ms(100)).unwrap()), [(1800, 0.1)]);
    assert_eq!(watch.faults().backwards, 1);
    tree.write("proc/stat", "nonsense\n");
    assert!(watch.look(ms(200)).is_err());
    assert_eq!(watch.faults().failed, 1);
    tree.stat(&[(0, 20), (1, 25)]);
    // The clock steps back: nothing now, all of it at the next look.
    assert_eq!(watch.look(ms(50)).unwrap(), Activity::default());
    let activity = watch.look(ms(300)).unwrap();
    assert_eq!(busy(&activity), [(1800, 0.25)]);
    assert!((activity.seconds - 0.2).abs() < 1e-9);
    assert_eq!((watch.faults().backwards, watch.faults().failed), (2, 1));
    let hidden = ActivityWatch::open(&Root::new(tree.0.path()).denying("/proc/stat"), Traffic::default());
    assert!(matches!(hidden, Err(MeterError::Denied { .. })));
}

#[test]
fn lines_of_other_forms_are_no_cpu() {
    assert_eq!(busy_of("cpu3 10 1 5 800 50 2 3 40 9 0"), Some((3, 21)));
    for bad in ["cpu  1 2 3 4", "cpu0 1 2", "cpux 1 2 3 4", "cpu0 1 x 3 4", "intr 1 2 3 4", ""] {
        assert_eq!(busy_of(bad), None, "{bad:?}");
    }
}
