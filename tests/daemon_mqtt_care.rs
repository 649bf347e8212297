//! A request that ends the daemon, which must not go on for ever.

use tern_tests::broker::Broker;
use tern_tests::mqtt_daemon::{asking, slow_model, start, start_in, talk};

#[test]
fn a_request_with_which_the_daemon_ends_each_time_is_given_up_and_others_are_not() {
    let broker = Broker::start();
    let mut me = asking(&broker);
    let mut operator = broker.peer("operator");
    operator.subscribe("tern/pi/metrics");
    let mut daemon = start(&broker, "pi", &slow_model());
    me.publish(&talk("poison"));
    me.publish(&talk("innocent"));
    for life in 1..=3 {
        if life == 3 {
            // It was tried less and so goes first; the other one is run alone when the daemon has been up for a while.
            assert_eq!(me.receive().name(), "innocent");
        }
        daemon.status_when(|status| status["live"] == 1);
        daemon = start_in(daemon.kill(), &broker, "pi", &slow_model());
    }
    // The other one's may come again.
    let answer = me.receive_where(|note| note.name() == "poison");
    assert_eq!(answer.property("status"), Some("500"));
    let body = answer.json();
    assert!(body["message"].as_str().is_some_and(|words| words.contains("ended 3 times")), "{body}");
    operator.receive_where(|note| {
        note.json()["problem_text"].as_str().is_some_and(|text| text.contains("poison"))
    });
    // It stays given up for who asks again, and the rest goes on.
    me.publish(&talk("poison"));
    assert_eq!(me.receive_where(|note| note.name() == "poison").payload, answer.payload);
    me.publish(&talk("next"));
    assert_eq!(me.receive_where(|note| note.name() == "next").property("status"), Some("200"));
    assert_eq!(daemon.status()["requests"]["answered"], 1);
}
