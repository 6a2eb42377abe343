use super::*;
use crate::haproxy::fake::{self, Answer};

fn told(error: &AskError) -> String {
    error.to_string()
}

async fn answered(answer: &str) -> Result<String, AskError> {
    let server = fake::Server::start(|_| Answer::Text(String::new()));
    server.answer(answer);
    ask(server.path(), "show info").await
}

#[tokio::test]
async fn an_answer_comes_without_the_empty_line_at_its_end() {
    assert_eq!(answered("a\nb\n\n").await.unwrap(), "a\nb\n");
    assert_eq!(answered("\n").await.unwrap(), "");
}

#[tokio::test]
async fn what_is_no_utf8_is_replaced() {
    let server = fake::Server::start(|_| Answer::Bytes(b"a\xffb\n\n".to_vec()));
    assert_eq!(ask(server.path(), "x").await.unwrap(), "a\u{fffd}b\n");
}

#[tokio::test]
async fn one_command_is_sent_and_the_write_side_closed() {
    // The fake server answers only after it has read to the end.
    let server = fake::Server::start(|command| Answer::Text(format!("<{command}>\n\n")));
    assert_eq!(
        ask(server.path(), "@!7 show sess").await.unwrap(),
        "<@!7 show sess>\n"
    );
    for command in ["show info\nshut session x", "a\rb", "a\0b"] {
        let error = ask(server.path(), command).await.unwrap_err();
        assert!(matches!(error, AskError::NotOneLine(_)), "{command:?}");
    }
    assert_eq!(server.commands().len(), 1);
}

#[tokio::test]
async fn a_socket_that_is_not_there_or_dead_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("none.sock");
    let error = ask(&path, "show info").await.unwrap_err();
    assert!(matches!(error, AskError::Missing(_)));
    assert!(told(&error).contains("none.sock does not exist"), "{error}");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let error = ask(&path, "show info").await.unwrap_err();
    assert!(matches!(error, AskError::Refused(_)), "{error}");
}

#[tokio::test]
async fn denied_and_unknown_commands_are_told_with_the_line_to_write() {
    for (command, level) in [
        ("show sess", "operator"),
        ("@!7 get weight b/s", "operator"),
        ("shutdown session 0x1", "admin"),
    ] {
        let server = fake::Server::start(|_| Answer::Text("Permission denied\n\n".to_owned()));
        let error = told(&ask(server.path(), command).await.unwrap_err());
        let line = format!("`stats socket {} level {level}`", server.path().display());
        assert!(error.contains(&line), "{error}");
    }
    let error = answered("Unknown command: 'show info', but maybe …\n\n").await;
    assert!(matches!(error, Err(AskError::Unknown { .. })));
    let error = answered("Can't find the target PID matching the prefix '@!7'\n").await;
    assert!(matches!(error, Err(AskError::NoWorker { .. })));
}

#[tokio::test]
async fn of_several_commands_the_one_that_is_denied_is_named() {
    let text = "user\n\nPermission denied\n\nName: HAProxy\n\n";
    let server = fake::Server::start(|_| Answer::Text(text.to_owned()));
    let command = "show cli level;show sess;show info";
    let error = told(&ask(server.path(), command).await.unwrap_err());
    assert!(error.contains("denies `show sess`"), "{error}");
}

#[tokio::test]
async fn an_answer_that_ends_early_is_no_answer() {
    for text in ["", "a\n", "a\nb", "a\nb\n"] {
        let error = answered(text).await;
        assert!(matches!(error, Err(AskError::CutOff(_))), "{text:?}");
    }
}

#[tokio::test]
async fn a_silent_or_endless_haproxy_is_given_up() {
    let time = Duration::from_millis(200);
    let server = fake::Server::start(|_| Answer::Never);
    let error = ask_within(server.path(), "x", time, ANSWER_MAX).await;
    assert!(matches!(error, Err(AskError::TimedOut { .. })));
    let server = fake::Server::start(|_| Answer::Endless);
    let error = ask_within(server.path(), "x", ANSWER_TIME, 100_000).await;
    assert!(matches!(error, Err(AskError::TooLarge { .. })));
}
