//! From a message of a client to a job in the queue, or to a refusal that says what is wrong.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use tern_protocol::answer::{Answer, Reason};
use tern_protocol::limits::{LOGPROBS, MESSAGES};
use tern_protocol::request::{Priority, Role, Work};

use super::counters::Ending;
use super::form::{Form, Unreadable};
use super::queue::{Job, JobGoal, Notice, PushError, Queue};
use super::requester::{ClientId, Requester};
use super::shortened;
use super::spending;
use super::state::State;
use super::tokenizing::{Found, Tokenizing, Wanted};
use super::worker::unknown_request;
use crate::config::Limits;
use crate::grammar::{Book, CompileError, Grammar, Schema};
use crate::tasks::prompt::{Prompt, PromptForm};
use crate::tasks::{Answering, CurrentTasks, STOPS_IN_JSON, Task, TaskSet, sampling};
use crate::wire::{self, Failure, Request, Status};

/// What every client's thread needs.
#[derive(Debug)]
pub struct Service {
    /// Where jobs go.
    pub queue: Arc<Queue>,
    /// Counters.
    pub state: Arc<State>,
    /// Tasks by name, which a reload replaces.
    pub current_tasks: Arc<CurrentTasks>,
    /// How prompts are laid out for the model.
    pub form: Arc<PromptForm>,
    /// How much may be asked for.
    pub limits: Limits,
    /// Number of the last requester.
    pub clients: AtomicU64,
    /// Grammars for schemas.
    pub book: Book,
}

/// How long the engine may take to say what its tokens are: a step, and a look at each.
const WORDS_WAIT: Duration = Duration::from_secs(30);

/// A refusal in the making.
struct Refused {
    reason: Reason,
    message: String,
    retry_after_ms: Option<u32>,
}

fn refused(reason: Reason, message: impl Into<String>) -> Refused {
    Refused { reason, message: message.into(), retry_after_ms: None }
}

fn bad(message: impl std::fmt::Display) -> Refused {
    refused(Reason::BadRequest, message.to_string())
}

/// What a job is made of, beside its client.
struct Asked {
    prompt: Prompt,
    goal: JobGoal,
    text: Option<String>,
    deadline_ms: Option<u32>,
    max_joules: Option<f64>,
    priority: Option<Priority>,
}

impl Service {
    /// The tasks in force now. Take them once for a request: the next call may give others.
    pub fn tasks(&self) -> Arc<TaskSet> {
        self.current_tasks.set()
    }

    /// A number for a new requester.
    pub fn new_client_id(&self) -> ClientId {
        self.clients.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// What it tells of itself in the answer to the status request `id`.
    pub fn status(&self, id: String) -> Status {
        self.state.status(id, &self.queue, &self.tasks())
    }

    /// Takes one message of a client, without its end. Every answer goes through the session.
    pub fn take_message(&self, session: &Arc<dyn Requester>, form: Form, message: &mut [u8]) {
        match form.request(message) {
            Ok(Some(request)) => self.take_request(session, request, None),
            Ok(None) => {}
            Err(Unreadable { id, message }) => {
                // An answer with the id of a live request would end that one.
                let id = id.filter(|id| !session.is_live(id));
                self.refuse(&**session, id, bad(message));
            }
        }
    }

    /// Takes a request, whose id has a legal length and whose answer is worth nothing after `within`. Every answer goes
    /// through the session.
    pub fn take_request(&self, session: &Arc<dyn Requester>, request: Request, within: Option<Duration>) {
        let id = request.id.clone();
        if session.begin(&id).is_err() {
            let message = format!("the id {id:?} belongs to a live request; give each request its own");
            return self.refuse(&**session, None, bad(message));
        }
        if let Err(refused) = self.take(session, request, within) {
            self.refuse(&**session, Some(id), refused);
        }
    }

    /// Refuses a message that was not taken in.
    pub fn refuse_message(&self, session: &dyn Requester, reason: Reason, message: impl Into<String>) {
        self.refuse(session, None, refused(reason, message));
    }

    fn refuse(&self, session: &dyn Requester, id: Option<String>, refused: Refused) {
        let Refused { reason, message, retry_after_ms } = refused;
        let message = shortened(message);
        let (client, request) = (session.id(), id.as_deref().unwrap_or_default());
        log::debug!(tern_client = client, tern_request = request; "client {client}: request refused: {message}");
        self.state.count(session.way(), Ending::Refused);
        session.send(&Answer::Error(Failure { id, code: reason.code(), reason, message, retry_after_ms }));
    }

    /// Does what a request of a usable id asks for.
    fn take(
        &self,
        session: &Arc<dyn Requester>,
        mut request: Request,
        within: Option<Duration>,
    ) -> Result<(), Refused> {
        let asks = request.work().map_err(bad)?;
        let takes_text = matches!(asks, Work::Task(_) | Work::Ask(_));
        if request.text.is_some() && !takes_text {
            return Err(bad("text goes with task and ask only; put it into the prompt or a message"));
        }
        if request.text.is_none() && takes_text {
            return Err(bad("text is missing; task and ask need it"));
        }
        let text = request.text.take().unwrap_or_default();
        let asked = match request.work().map_err(bad)? {
            Work::Status => {
                session.send(&Answer::Status(self.status(request.id)));
                return Ok(());
            }
            Work::Cancel(target) if session.is_live(target) && *target != request.id => {
                let (session, target) = (Arc::clone(session), target.clone());
                self.queue.notify(Notice::Cancel { session, by: request.id, target });
                return Ok(());
            }
            Work::Cancel(target) => {
                session.send(&unknown_request(request.id.clone(), target));
                return Ok(());
            }
            Work::Task(name) => {
                let tasks = self.tasks();
                let task = tasks.find(name).ok_or_else(|| {
                    let names: Vec<_> = tasks.names().collect();
                    refused(Reason::UnknownTask, format!("no task {name:?}; there are {}", names.join(", ")))
                })?;
                self.on_task(Arc::clone(task), text)?
            }
            Work::Ask(ask) => self.on_task(Arc::new(Task::new(ask.clone()).map_err(bad)?), text)?,
            Work::Generate(generate) => {
                self.check_size(generate.prompt.len(), "the prompt", self.limits.text_bytes)?;
                let prompt = self.form.plain(&generate.prompt);
                let wanted = generate.sampling.clone();
                on_text(prompt, wanted, generate.max_tokens, generate.schema.as_ref(), generate.logprobs)?
            }
            Work::Chat(chat) => {
                let prompt = self.conversation(chat)?;
                let wanted = chat.sampling.clone();
                on_text(prompt, wanted, chat.max_tokens, chat.schema.as_ref(), chat.logprobs)?
            }
        };
        self.queue_up(session, request, asked, within)
    }

    fn check_size(&self, found: usize, what: &str, most: usize) -> Result<(), Refused> {
        if found <= most {
            return Ok(());
        }
        let message = format!("{what} has {found} bytes; at most {most} are taken; shorten it");
        Err(refused(Reason::TooLarge, message))
    }

    fn on_task(&self, task: Arc<Task>, text: String) -> Result<Asked, Refused> {
        let most = task.text_bytes.map_or(self.limits.text_bytes, |own| own.min(self.limits.text_bytes));
        self.check_size(text.len(), "the text", most)?;
        let prompt = self.form.task(&task, &text);
        let text = task.long.is_some().then_some(text);
        let Task { deadline_ms, max_joules, priority, .. } = *task;
        Ok(Asked { prompt, deadline_ms, max_joules, priority, goal: JobGoal::Task(task), text })
    }

    fn conversation(&self, chat: &wire::Chat) -> Result<Prompt, Refused> {
        let messages = &chat.messages;
        match messages.len() {
            1..=MESSAGES => {}
            found => return Err(bad(format!("{found} messages; give 1 to {MESSAGES}"))),
        }
        if messages.last().is_some_and(|last| last.role != Role::User) {
            return Err(bad("the last message must be the user's, for the model to answer it"));
        }
        let bytes = messages.iter().map(|message| message.content.len()).sum();
        self.check_size(bytes, "the conversation", self.limits.text_bytes)?;
        self.form.chat(messages).map_err(bad)
    }

    fn queue_up(
        &self,
        session: &Arc<dyn Requester>,
        request: Request,
        asked: Asked,
        within: Option<Duration>,
    ) -> Result<(), Refused> {
        let queued_at = Instant::now();
        spending::check(request.max_joules).map_err(bad)?;
        let max_joules = request.max_joules.or(asked.max_joules).or(self.limits.max_joules);
        let max_joules = self.state.facts.budgets.take(max_joules);
        let max_joules = max_joules.map_err(|message| refused(Reason::Energy, message))?;
        let grammar = self.grammar(&asked.goal)?;
        let given_ms = request.deadline_ms.or(asked.deadline_ms).or(self.limits.deadline_ms);
        let given = given_ms.map(|ms| Duration::from_millis(u64::from(ms)));
        let given = given.into_iter().chain(within).min();
        let job = Box::new(Job {
            session: Arc::clone(session),
            id: request.id,
            prompt: asked.prompt,
            goal: asked.goal,
            text: asked.text,
            grammar,
            stream: request.stream,
            queued_at,
            deadline: given.map(|given| (queued_at + given, given)),
            max_joules,
            priority: request.priority.or(asked.priority).unwrap_or_default(),
        });
        self.queue.push(job).map_err(|(_, error)| match error {
            PushError::Stopping => refused(Reason::Stopping, super::STOPPING),
            PushError::Full { waiting } => {
                self.full(waiting, format!("{waiting} requests wait already (limits.queue); try again later"))
            }
            PushError::ClientFull { waiting } => self.full(
                waiting,
                format!(
                    "{waiting} requests of this client wait already (limits.client_queue); try again later"
                ),
            ),
        })
    }

    /// What a text is to keep to, if it has a schema. Made here, on the client's thread, so that nobody else waits for it.
    fn grammar(&self, goal: &JobGoal) -> Result<Option<Grammar>, Refused> {
        let Answering::Text { schema: Some(schema), .. } = goal.answering() else { return Ok(None) };
        let words = || {
            let (tell, told) = mpsc::sync_channel(1);
            let then = Box::new(move |found| {
                if let Found::Words(words) = found {
                    // Nobody waits any more if it took too long.
                    let _ = tell.send(words);
                }
            });
            self.queue.notify(Notice::Tokenize(Tokenizing { wanted: Wanted::Words, then }));
            told.recv_timeout(WORDS_WAIT).ok()
        };
        self.book.grammar(schema, words).map(Some).map_err(|error| match error {
            CompileError::Schema { .. } => bad(error),
            _ => refused(Reason::Internal, error.to_string()),
        })
    }

    fn full(&self, waiting: usize, message: String) -> Refused {
        let retry_after_ms = Some(self.state.retry_after_ms(waiting));
        Refused { reason: Reason::QueueFull, message, retry_after_ms }
    }
}

fn on_text(
    prompt: Prompt,
    wanted: Option<wire::Sampling>,
    max_tokens: Option<u32>,
    schema: Option<&wire::Json>,
    logprobs: Option<u32>,
) -> Result<Asked, Refused> {
    let (sampling, stops) = sampling(wanted).map_err(bad)?;
    let max_tokens = max_tokens.map(|tokens| tokens as usize);
    let schema = schema.map(Schema::new).transpose().map_err(bad)?;
    if schema.is_some() && !stops.is_empty() {
        return Err(bad(STOPS_IN_JSON));
    }
    if let Some(found) = logprobs.filter(|found| *found > LOGPROBS) {
        return Err(bad(format!("logprobs is {found}; it must be 0 to {LOGPROBS}")));
    }
    let logprobs = logprobs.map(|alternatives| alternatives as usize);
    let goal = JobGoal::Text(Answering::Text { sampling, stops, max_tokens, schema, logprobs });
    Ok(Asked { prompt, goal, text: None, deadline_ms: None, max_joules: None, priority: None })
}
