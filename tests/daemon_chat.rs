//! A conversation on a terminal: what is remembered, and what Ctrl-C does.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStderr, ChildStdout};

use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, openpt, ptsname, unlockpt};
use tern_tests::binary::tern;

/// `tern run` with a terminal for its input. Its output is no terminal, so that what it prints is plain.
struct Conversation {
    child: Child,
    keyboard: File,
    stdout: ChildStdout,
    stderr: BufReader<ChildStderr>,
}

impl Conversation {
    fn begin<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Conversation {
        let keyboard = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
        unlockpt(&keyboard).expect("it can be used");
        let name = ptsname(&keyboard, Vec::new()).expect("it has a name");
        let terminal =
            File::options().read(true).write(true).open(name.to_str().expect("ASCII")).expect("it opens");
        let mut child =
            tern(["run"].into_iter().chain(arguments)).stdin(terminal).spawn().expect("it starts");
        let stdout = child.stdout.take().expect("its output");
        let stderr = BufReader::new(child.stderr.take().expect("its messages"));
        let mut conversation = Conversation { child, keyboard: keyboard.into(), stdout, stderr };
        assert!(conversation.message().contains("threads"));
        assert!(conversation.message().contains("Ctrl-C"));
        conversation.prompt();
        conversation
    }

    /// The next line on standard error.
    fn message(&mut self) -> String {
        let mut line = String::new();
        self.stderr.read_line(&mut line).expect("text");
        line
    }

    /// Reads standard output up to the next prompt and returns what came before it.
    fn prompt(&mut self) -> String {
        let mut text = Vec::new();
        while !(text.ends_with(b"\n> ") || text == b"> ") {
            let mut byte = [0];
            self.stdout.read_exact(&mut byte).expect("a prompt comes before the end");
            text.push(byte[0]);
        }
        text.truncate(text.len() - 2);
        String::from_utf8(text).expect("UTF-8")
    }

    fn say(&mut self, text: &str) {
        writeln!(self.keyboard, "{text}").expect("the terminal takes it");
    }

    /// Says `text` and returns how many tokens the prompt of the answer had.
    fn prompt_tokens(&mut self, text: &str) -> u32 {
        self.say(text);
        let answer = self.prompt();
        assert!(!answer.trim().is_empty(), "it answers");
        let cost = self.message();
        let count = cost.trim_start_matches('[').split(' ').next().and_then(|count| count.parse().ok());
        count.unwrap_or_else(|| panic!("no token count in {cost:?}"))
    }

    fn interrupt(&self) {
        let id = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(id, Signal::INT).expect("it is still there");
    }

    fn ended(mut self) -> Option<i32> {
        self.child.wait().expect("it ends").code()
    }
}

#[test]
fn a_conversation_remembers_until_it_is_told_to_forget() {
    let mut conversation = Conversation::begin([]);
    let first = conversation.prompt_tokens("Hello there");
    let second = conversation.prompt_tokens("Hello there");
    assert!(second >= 2 * first, "the first exchange is part of the second: {first}, {second}");
    conversation.say("/clear");
    assert_eq!(conversation.prompt(), "");
    assert_eq!(conversation.message(), "(forgotten)\n");
    assert_eq!(conversation.prompt_tokens("Hello there"), first);
    conversation.keyboard.write_all(&[4]).expect("the end of input");
    assert_eq!(conversation.ended(), Some(0));
}

#[test]
fn ctrl_c_stops_an_answer_and_leaves_at_the_prompt() {
    // So hot that any token may follow: it hardly ever ends by itself, and slow kernels give the time to interrupt it.
    let arguments = ["--temperature", "90", "--seed", "4", "--kernels", "scalar-t2i8", "--threads", "1"];
    let mut conversation = Conversation::begin(arguments);
    conversation.say("Hello there");
    let mut some = [0; 16];
    conversation.stdout.read_exact(&mut some).expect("the answer begins");
    conversation.interrupt();
    conversation.prompt();
    let message = conversation.message();
    assert!(message.starts_with('(') && message.contains("cancel"), "{message:?}");
    conversation.say("/clear");
    conversation.prompt();
    assert_eq!(conversation.message(), "(forgotten)\n");
    // The prompt is printed just before input is awaited; only then does an interrupt mean to leave.
    std::thread::sleep(std::time::Duration::from_millis(100));
    conversation.interrupt();
    assert_eq!(conversation.ended(), Some(130));
}
