//! One connection: its requests one after another, and a proper end.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::time::Duration;

use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::{Request, StatusCode};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::Shared;
use super::error::ApiError;
use super::line::{Line, Phase, Stage, Times};
use super::reply::{Reply, Response, Unread};
use super::route;

/// How long a client may go on sending what nobody will read, so that it gets to read why.
const LINGER: Duration = Duration::from_secs(1);

/// A response whose end is noted.
struct Noted {
    reply: Reply,
    stage: Rc<Stage>,
}

impl Drop for Noted {
    fn drop(&mut self) {
        self.stage.end();
    }
}

impl Body for Noted {
    type Data = Bytes;
    type Error = Unread;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, Unread>>> {
        Pin::new(&mut self.reply).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.reply.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.reply.size_hint()
    }
}

/// hyper's view of those who answer.
struct Answerer {
    shared: Rc<Shared>,
    stage: Rc<Stage>,
}

impl hyper::service::Service<Request<Incoming>> for Answerer {
    type Response = hyper::Response<Noted>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>>>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        self.stage.begin();
        let (shared, stage) = (Rc::clone(&self.shared), Rc::clone(&self.stage));
        Box::pin(async move {
            let response = route::answer(&shared, request).await;
            Ok(response.map(|reply| Noted { reply, stage }))
        })
    }
}

/// Serves a connection to its end.
pub async fn serve<S: AsyncRead + AsyncWrite + Unpin + 'static>(io: S, shared: Rc<Shared>) {
    let section = &shared.section;
    let times = Times {
        head: Duration::from_millis(section.header_ms),
        idle: Duration::from_millis(section.keep_alive_ms),
        write: Duration::from_millis(shared.write_ms),
    };
    let line = Line::new(io, times);
    let stage = Rc::clone(line.stage());
    let answerer = Answerer { shared: Rc::clone(&shared), stage: Rc::clone(&stage) };
    let mut connection = http1::Builder::new()
        .max_header_size(section.header_bytes)
        .header_read_timeout(None)
        .serve_connection(line, answerer);
    let mut phase = shared.phase.clone();
    let mut closing = pin!(phase.wait_for(super::Phase::is_closing));
    let mut is_closing = false;
    let outcome = poll_fn(|context| {
        if !is_closing && closing.as_mut().poll(context).is_ready() {
            is_closing = true;
            Pin::new(&mut connection).graceful_shutdown();
        }
        connection.poll_without_shutdown(context)
    })
    .await;
    let line = connection.into_parts().io;
    let error = match &outcome {
        Err(error) if error.is_parse() && line.held_back() => Some(unreadable(error, section.header_bytes)),
        Err(_) if line.is_late() && stage.phase() == Phase::Head => Some(late(section.header_ms)),
        Err(error) => {
            log::debug!("an HTTP connection ended: {error}");
            None
        }
        Ok(()) => None,
    };
    end(line.into_inner(), error.map(|error| error.response())).await;
}

fn unreadable(error: &hyper::Error, header_bytes: usize) -> ApiError {
    if error.is_parse_too_large() {
        let message =
            format!("the head of the request has more than {header_bytes} bytes (http.header_bytes)");
        return ApiError::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "too_large", message);
    }
    ApiError::bad(format!("the request is not HTTP/1.1: {error}"))
}

fn late(header_ms: u64) -> ApiError {
    let message = format!("the head of the request did not end within {header_ms} ms (http.header_ms)");
    ApiError::new(StatusCode::REQUEST_TIMEOUT, "deadline", message)
}

/// Sends a last response, if there is one, and closes: reading on for a moment, since a connection that is closed with
/// bytes unread takes with it what the client has not read yet.
pub async fn end<S: AsyncRead + AsyncWrite + Unpin>(mut io: S, last: Option<Response>) {
    let ending = async {
        if let Some(response) = last {
            io.write_all(&as_bytes(&response)).await?;
        }
        io.shutdown().await?;
        let mut unread = [0; 4096];
        while io.read(&mut unread).await? > 0 {}
        std::io::Result::Ok(())
    };
    // Whatever fails here has failed at saying goodbye.
    let _ = timeout(LINGER, ending).await;
}

/// A whole response as it is sent.
fn as_bytes(response: &Response) -> Vec<u8> {
    let Reply::Whole(Some(body)) = response.body() else { return Vec::new() };
    let status = response.status();
    let mut bytes =
        format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n", body.len()).into_bytes();
    for (name, value) in response.headers() {
        bytes.extend_from_slice(name.as_str().as_bytes());
        bytes.extend_from_slice(b": ");
        bytes.extend_from_slice(value.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(body);
    bytes
}
