//! What is wrong with a configuration in TOML, said as it is of board profiles.

pub use tern_boards::unknown_key::explain;

#[cfg(test)]
mod tests {
    use super::explain;
    use crate::config::Config;

    fn told(text: &str) -> String {
        explain(text, &toml::from_str::<Config>(text).expect_err("it is wrong"))
    }

    #[test]
    fn a_slip_is_told_with_what_was_meant() {
        assert_eq!(
            told("[limits]\nclients = 3\nquue = 2\n"),
            "limits.quue: unknown key; did you mean queue?"
        );
        assert_eq!(told("lgo = 'info'\n"), "lgo: unknown key; did you mean log?");
        assert_eq!(
            told("[mqtt] # ours\nbroker = 'mqtt://a'\nkeepalive_s = 3\n"),
            "mqtt.keepalive_s: unknown key; did you mean keep_alive_s?"
        );
        assert_eq!(
            told("[[watch]]\ntopic = 'a'\ntask = 'b'\nanswers = 'c'\n"),
            "watch.answers: unknown key; did you mean answer?"
        );
        let far = told("[tasks]\ndirectory = '/etc'\n");
        assert_eq!(far, "tasks.directory: unknown key; there are folder");
        assert!(!told("log = 3\n").contains("unknown key"));
    }
}
