use super::*;
use proptest::prelude::*;

#[test]
fn recorded_info() {
    for (answer, version) in [
        (include_str!("../testdata/info-2.6.txt"), "2.6.12-1+deb12u3"),
        (include_str!("../testdata/info-3.0.txt"), "3.0.11-1+deb13u4"),
        (include_str!("../testdata/info-3.2.txt"), "3.2.26-1"),
    ] {
        let info = info(answer).unwrap();
        assert_eq!(info.version, version);
        assert!(answer.contains(&format!("\nPid: {}\n", info.pid)));
    }
}

#[test]
fn an_info_without_its_process_is_none() {
    assert_eq!(info(""), None);
    assert_eq!(info("Version: 3.0\n"), None);
    assert_eq!(info("Pid: 1\n"), None);
    assert_eq!(info("Version: 3.0\nPid: x\n"), None);
    assert_eq!(info("Pid: 4294967296\nVersion: 3.0\n"), None);
    let expected = Info {
        version: "3.0",
        pid: 7,
    };
    assert_eq!(info("Pid: 7\nX\nVersion: 3.0 \n"), Some(expected));
}

#[test]
fn recorded_processes() {
    for (answer, version, workers) in [
        (
            include_str!("../testdata/proc-2.6.txt"),
            "2.6.12-1+deb12u3",
            1,
        ),
        (
            include_str!("../testdata/proc-3.0.txt"),
            "3.0.11-1+deb13u4",
            1,
        ),
        (include_str!("../testdata/proc-3.2.txt"), "3.2.26-1", 1),
        (
            include_str!("../testdata/proc-2.6-reloaded.txt"),
            "2.6.12-1+deb12u3",
            2,
        ),
        (
            include_str!("../testdata/proc-3.0-reloaded.txt"),
            "3.0.11-1+deb13u4",
            2,
        ),
        (
            include_str!("../testdata/proc-3.2-reloaded.txt"),
            "3.2.26-1",
            2,
        ),
    ] {
        let processes = processes(answer);
        assert_eq!(processes.version, Some(version));
        assert_eq!(processes.workers.len(), workers, "{answer}");
        for pid in processes.workers {
            assert!(answer.contains(&format!("\n{pid}           worker")));
        }
    }
}

#[test]
fn workers_are_bounded_and_programs_are_none() {
    let answer = "1 master 0 2.6\n# programs\n9 dataplane - 0 0d -\nx worker\nworker\n\n2 worker\n";
    assert_eq!(processes(answer).workers, [2]);
    let many = "3 worker 0\n".repeat(WORKERS_MAX + 1);
    assert_eq!(processes(&many).workers.len(), WORKERS_MAX);
}

proptest! {
    #[test]
    fn any_text_is_read(text in any::<String>()) {
        let _ = (info(&text), processes(&text));
    }
}
