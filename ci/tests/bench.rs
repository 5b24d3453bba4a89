//! A small run of `ci/bench` measures culvert and the kernel and writes its report.

use culvert_lab::bench::report::Report;
use culvert_lab::bench::{self, KERNEL, Measure, Options};

#[test]
#[ignore = "needs culvert's programs: run by ci/test"]
fn a_small_run_writes_the_whole_report() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        quick: true,
        setups: vec!["socket".into(), "plain".into()],
        measures: vec![Measure::Tcp1, Measure::Udp64, Measure::Latency],
        out: Some(dir.path().to_owned()),
        check: false,
    };
    bench::run(options).unwrap();
    let report = Report::read(&dir.path().join("host.json")).unwrap();
    assert!(report.problems.is_empty() && report.left_out.is_empty());
    for setup in [KERNEL, "socket", "plain"] {
        for figure in [
            "tcp-1",
            "cpu-gigabyte",
            "udp-64",
            "cpu-packet",
            "latency-p99",
        ] {
            let row = report.row(setup, figure).unwrap();
            let ratio = row.ratio.unwrap();
            assert_eq!((row.value.count, ratio.count), (3, 3), "{row:?}");
            assert!(row.value.median > 0.0 && ratio.median > 0.0, "{row:?}");
        }
    }
    for file in ["host.csv", "host.md", "host-ratios.svg", "host-ratios.png"] {
        assert!(dir.path().join(file).is_file(), "{file}");
    }
    // What was not asked for has no plot, and other setups no column.
    assert!(!dir.path().join("host-endpoints.svg").exists());
    let page = std::fs::read_to_string(dir.path().join("host.md")).unwrap();
    assert!(page.contains("| plain TAP forwarder |") && !page.contains("Open vSwitch"));
}
