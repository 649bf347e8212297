use tern_boards::energy::{Method, Phase, Scope};

use super::*;
use crate::daybook::{MeterName, Page as Hour, Record};

/// 2026-11-20.
const DAY: u64 = 20_777;

fn meter(source: &str, method: Method) -> Option<MeterName> {
    Some(MeterName { method, scope: Scope::BoardDc, source: source.into(), relative_uncertainty: 0.05 })
}

fn sums(idle_uj: u64, prefill_uj: u64, decode_uj: u64) -> Sums {
    let mut sums = Sums { running_ms: 3_600_000, idle_uj, unattributed_uj: 0, ..Sums::default() };
    let work = sums.task("grade");
    work.answered = 2000;
    work.charge(Phase::Prefill, 40_000, prefill_uj);
    work.charge(Phase::Decode, 1000, decode_uj);
    sums
}

fn report(hours: Vec<Hour>, price: Option<f64>) -> Report {
    let record = Record { totals: Vec::new(), pages: hours };
    let price = price.map(|per_kwh| Price { per_kwh, currency: "EUR".into() });
    Report { days: DAY..DAY + 1, parts: parts(&record, &(DAY..DAY + 1)), price }
}

/// Two hours of 3 and 2 Wh by one meter, and one by another.
fn two_meters() -> Vec<Hour> {
    let ina = meter("ina226 <\"5 V\" & 3.3 V>", Method::HwmonPower);
    let page = |hour: u64, meter: &Option<MeterName>, sums| Hour {
        hour: DAY * 24 + hour,
        meter: meter.clone(),
        sums,
    };
    vec![
        page(8, &ina, sums(7_200_000_000, 2_600_000_000, 1_000_000_000)),
        page(9, &ina, sums(7_200_000_000, 0, 0)),
        page(9, &None, sums(0, 0, 0)),
    ]
}

#[test]
fn a_day_is_told_by_task_request_token_and_hour() {
    let text = text::page(&report(two_meters(), Some(0.3)), &Terminal::PLAIN);
    println!("{text}");
    for line in [
        "Energy of 2026-11-20 UTC",
        "hwmon_power: ina226",
        "covers board_dc, 95 % interval +-5.00 %; the daemon ran 2.00 of 24 h",
        "idle          14400 J  4.00 Wh   80%",
        "EUR/1000",
        "08:00  ########################################  3.00  33%  2000",
        "09:00  ###########################.............  2.00   0%  2000",
        "meter     none: joules are not known; the daemon ran 1.00 of 24 h",
    ] {
        assert!(text.contains(line), "{line:?} is missing");
    }
    let row = |task: &str| {
        let line = text.lines().find(|line| line.starts_with(task)).expect("a line of it");
        line.split_ascii_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    // 3600 J for 4000 requests, 80,000 tokens read and 2000 written: 0.9 kJ, 0.25 Wh and 0.075 thousandths of a Euro each.
    assert_eq!(
        row("grade"),
        [
            "grade",
            "4000",
            "0",
            "80000",
            "2000",
            "3600",
            "+-5",
            "%",
            "0.900",
            "0.0325",
            "0.500",
            "0.250",
            "0.0000750"
        ]
    );
    assert!(text.contains("their joules are not added up"));
    assert!(text.is_ascii());
    let without = text::page(&report(two_meters().split_off(2), None), &Terminal::PLAIN);
    assert!(!without.contains(" 0 J") && !without.contains("EUR"), "{without}");
    let cells: Vec<&str> =
        without.lines().find(|line| line.starts_with("grade")).expect("it").split_whitespace().collect();
    assert_eq!(cells[5..], ["-"; 6], "{without}");
}

#[test]
fn programs_get_null_and_empty_fields_for_what_is_not_known() {
    let report = report(two_meters(), None);
    let json = report.json();
    assert_eq!(json["meters"][0]["joules"], 18_000.0);
    assert_eq!(json["meters"][0]["tasks"][0]["joules_per_request"], 0.9);
    assert_eq!(json["meters"][0]["idle_share"], 0.8);
    assert!(json["meters"][1]["joules"].is_null() && json["meters"][1]["tasks"][0]["joules"].is_null());
    assert!(json["meters"][0]["cost"].is_null());
    let csv = csv::lines(&report);
    let lines: Vec<&str> = csv.lines().collect();
    assert_eq!(
        lines[1],
        "2026-11-20,08,hwmon_power,board_dc,\"ina226 <\"\"5 V\"\" & 3.3 V>\",requests,grade,2000,0,40000,1000,\
         2600.000000,1000.000000,3600.000000,0.050"
    );
    assert_eq!(lines[7], "2026-11-20,09,unknown,,,requests,grade,2000,0,40000,1000,,,,");
    let fields = lines[0].split(',').count();
    for line in &lines[4..] {
        // Those without quotes.
        assert!(line.contains('"') || line.split(',').count() == fields, "{line}");
    }
}

#[test]
fn the_drawing_is_xml_whose_bars_stay_in_their_panel() {
    let svg = svg::draw(&report(two_meters(), None));
    assert!(svg.contains("ina226 &lt;&quot;5 V&quot; &amp; 3.3 V&gt;") && !svg.contains("ina226 <"));
    assert_eq!(svg.matches("<g ").count(), svg.matches("</g>").count());
    assert_eq!(svg.matches("<text").count(), svg.matches("</text>").count());
    for word in ["Wh in an hour", "hour of the day, UTC", "requests", "idle", "\u{b1}5.00 %", "no meter"] {
        assert!(svg.contains(word), "{word}");
    }
    let number = |line: &str, name: &str| -> f64 {
        let rest = line.split_once(&format!(" {name}=\"")).expect(name).1;
        rest.split('"').next().expect("a number").parse().expect("a number")
    };
    let bars: Vec<&str> = svg.lines().filter(|line| line.contains("<title>2026-11-20")).collect();
    assert_eq!(bars.len(), 3);
    for bar in bars {
        let (top, height) = (number(bar, "y"), number(bar, "height"));
        assert!(top >= 59.9 && height > 0.0 && top + height <= 250.1, "{bar}");
        assert!(number(bar, "x") > 70.0 && number(bar, "x") + number(bar, "width") < 880.0, "{bar}");
    }
    // Nothing at all is a drawing, too.
    assert!(svg::draw(&report(Vec::new(), None)).contains("nothing is recorded"));
}

#[test]
fn counters_of_a_record_have_one_series_a_meter() {
    let total = |meter: Option<MeterName>, uj| Total { meter, since_s: 0, sums: sums(uj, uj, 0) };
    let mut recalibrated = meter("a", Method::HwmonPower);
    recalibrated.as_mut().expect("a meter").relative_uncertainty = 0.01;
    let totals = vec![
        total(meter("a", Method::HwmonPower), 1_000_000),
        total(None, 0),
        total(recalibrated, 2_000_000),
        total(meter("a", Method::EnergyCounter), 7_000_000),
    ];
    let text = prometheus(&Record { totals, pages: Vec::new() });
    let has = |line: &str| assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    has(r#"tern_energy_joules_total{part="idle",scope="board_dc",method="hwmon_power",source="a"} 3"#);
    has(r#"tern_energy_joules_total{part="idle",scope="board_dc",method="energy_counter",source="a"} 7"#);
    has(r#"tern_task_requests_total{task="grade",ending="answered"} 8000"#);
    has(
        r#"tern_task_energy_joules_total{task="grade",phase="prefill",scope="board_dc",method="hwmon_power",source="a"} 3"#,
    );
    assert_eq!(text.matches("# TYPE tern_energy_joules_total counter").count(), 1);
    let mut series: Vec<&str> =
        text.lines().filter_map(|line| line.rsplit_once(' ').map(|pair| pair.0)).collect();
    let all = series.len();
    series.sort_unstable();
    series.dedup();
    assert_eq!(series.len(), all, "no series twice");
}
