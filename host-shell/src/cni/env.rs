//! The environment variables of a CNI call.

use std::ffi::OsString;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::{CniError, code};

/// What the runtime asks for (`CNI_COMMAND`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Command {
    /// Attach a container.
    Add,
    /// Detach it; succeeds as often as it is asked.
    Del,
    /// Compare what ADD made with what is there.
    Check,
    /// Can ADD be served?
    Status,
    /// Remove the attachments that the runtime does not list.
    Gc,
    /// List the supported versions.
    Version,
}

impl Command {
    const ALL: [Command; 6] = [
        Command::Add,
        Command::Del,
        Command::Check,
        Command::Status,
        Command::Gc,
        Command::Version,
    ];

    /// The command as the specification spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Command::Add => "ADD",
            Command::Del => "DEL",
            Command::Check => "CHECK",
            Command::Status => "STATUS",
            Command::Gc => "GC",
            Command::Version => "VERSION",
        }
    }

    /// Whether the call concerns one attachment, named by container and interface.
    fn names_attachment(self) -> bool {
        matches!(self, Command::Add | Command::Del | Command::Check)
    }

    fn needs_netns(self) -> bool {
        matches!(self, Command::Add | Command::Check)
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A call's environment; whoever holds one knows that it keeps the rules of its command.
///
/// Variables that the command does not use are left empty, whatever the runtime put in them
/// (libcni sends `dummy` with VERSION).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Unchecked")]
pub struct Environment {
    command: Command,
    container_id: String,
    netns: String,
    ifname: String,
    args: String,
}

/// An environment as it arrives; becomes an [`Environment`] only when the rules hold.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Unchecked {
    command: Command,
    container_id: String,
    netns: String,
    ifname: String,
    args: String,
}

impl Environment {
    /// Reads the environment of this process.
    ///
    /// # Errors
    /// Code 4, naming every variable that is wrong and why.
    pub fn from_process() -> Result<Environment, CniError> {
        Environment::from_vars(|name| std::env::var_os(name))
    }

    /// Reads an environment from `get`, which looks a variable up.
    ///
    /// # Errors
    /// Code 4, naming every variable that is wrong and why.
    pub fn from_vars(get: impl Fn(&str) -> Option<OsString>) -> Result<Environment, CniError> {
        let mut wrong = Vec::new();
        let command_text = text(&get, "CNI_COMMAND", &mut wrong);
        let command = Command::ALL
            .into_iter()
            .find(|c| c.as_str() == command_text);
        let Some(command) = command else {
            wrong.push(match command_text.as_str() {
                "" => "CNI_COMMAND is not set".to_owned(),
                other => {
                    format!("CNI_COMMAND {other:?} is none of ADD, DEL, CHECK, STATUS, GC, VERSION")
                }
            });
            return Err(invalid(&wrong));
        };
        // Other commands' variables may hold anything; they are not even looked at.
        let mut used = |name: &str| match command.names_attachment() {
            true => text(&get, name, &mut wrong),
            false => String::new(),
        };
        let unchecked = Unchecked {
            command,
            container_id: used("CNI_CONTAINERID"),
            netns: used("CNI_NETNS"),
            ifname: used("CNI_IFNAME"),
            args: used("CNI_ARGS"),
        };
        wrong.extend(unchecked.problems());
        if wrong.is_empty() {
            Ok(unchecked.into_checked())
        } else {
            Err(invalid(&wrong))
        }
    }

    /// What the runtime asks for.
    pub fn command(&self) -> Command {
        self.command
    }

    /// The container's identifier; empty for STATUS, GC and VERSION.
    pub fn container_id(&self) -> &str {
        &self.container_id
    }

    /// Path of the network namespace; `None` if the runtime gave none (only DEL may).
    pub fn netns(&self) -> Option<&str> {
        Some(self.netns.as_str()).filter(|path| !path.is_empty())
    }

    /// Name of the interface in the container; empty for STATUS, GC and VERSION.
    pub fn ifname(&self) -> &str {
        &self.ifname
    }

    /// The value of `key` in `CNI_ARGS` (`KEY=VALUE;KEY=VALUE`), the last one if there are several.
    pub fn arg(&self, key: &str) -> Option<&str> {
        self.args
            .split(';')
            .filter_map(|pair| pair.split_once('='))
            .filter_map(|(name, value)| (name == key).then_some(value))
            .next_back()
    }
}

impl Unchecked {
    fn into_checked(self) -> Environment {
        let Unchecked {
            command,
            container_id,
            netns,
            ifname,
            args,
        } = self;
        Environment {
            command,
            container_id,
            netns,
            ifname,
            args,
        }
    }

    fn problems(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        if !self.command.names_attachment() {
            return wrong;
        }
        let command = self.command;
        let mut check = |name: &str, value: &str, problem: Option<&str>| match problem {
            Some(_) if value.is_empty() => {
                wrong.push(format!("{name} is not set, {command} needs it"))
            }
            Some(problem) => wrong.push(format!("{name} {value:?} {problem}")),
            None => {}
        };
        check(
            "CNI_CONTAINERID",
            &self.container_id,
            identifier_problem(&self.container_id),
        );
        check("CNI_IFNAME", &self.ifname, ifname_problem(&self.ifname));
        check(
            "CNI_NETNS",
            &self.netns,
            netns_problem(&self.netns, command),
        );
        // DEL must not fail over arguments that it does not use.
        if command == Command::Add && malformed_args(&self.args) {
            wrong.push(format!(
                "CNI_ARGS {:?} is not KEY=VALUE;KEY=VALUE",
                self.args
            ));
        }
        wrong
    }
}

impl TryFrom<Unchecked> for Environment {
    type Error = CniError;

    fn try_from(unchecked: Unchecked) -> Result<Environment, CniError> {
        let wrong = unchecked.problems();
        if wrong.is_empty() {
            Ok(unchecked.into_checked())
        } else {
            Err(invalid(&wrong))
        }
    }
}

/// A variable's text, empty if it is not set; what is not text is named in `wrong`.
fn text(get: impl Fn(&str) -> Option<OsString>, name: &str, wrong: &mut Vec<String>) -> String {
    match get(name).map(OsString::into_string) {
        Some(Ok(text)) => text,
        None => String::new(),
        Some(Err(_)) => {
            wrong.push(format!("{name} is not UTF-8"));
            String::new()
        }
    }
}

fn invalid(wrong: &[String]) -> CniError {
    CniError::new(code::INVALID_ENVIRONMENT, wrong.join("; "))
}

fn malformed_args(args: &str) -> bool {
    args.split(';')
        .any(|pair| !pair.is_empty() && !pair.contains('='))
}

fn netns_problem(path: &str, command: Command) -> Option<&'static str> {
    if path.contains('\0') {
        Some("has a NUL byte")
    } else if path.is_empty() && !command.needs_netns() || path.starts_with('/') {
        None
    } else {
        Some("is not an absolute path")
    }
}

/// What is wrong with a container's or network's identifier, or `None`.
///
/// The rule is `^[a-zA-Z0-9][a-zA-Z0-9_.\-]*$`.
pub(super) fn identifier_problem(id: &str) -> Option<&'static str> {
    let first = id.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    let rest = id
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
    if first && rest {
        None
    } else {
        Some("must begin with a letter or digit and have only letters, digits, '_', '.' and '-'")
    }
}

/// What is wrong with the name of a network interface, or `None`.
///
/// The specification's and the kernel's rules: 1 to 15 bytes, not `.` or `..`, none of `/`, `:`
/// and white space; and no `%`, which the kernel would replace by a number when it makes a TAP.
pub fn ifname_problem(name: &str) -> Option<&'static str> {
    if name.is_empty() || name.len() > 15 {
        Some("must have 1 to 15 bytes")
    } else if name == "." || name == ".." {
        Some("must not be . or ..")
    } else if name
        .chars()
        .any(|c| matches!(c, '/' | ':' | '%') || c.is_whitespace() || c.is_control())
    {
        Some("must not contain '/', ':', '%', white space or control characters")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(vars: &[(&str, &str)]) -> Result<Environment, CniError> {
        Environment::from_vars(|name| {
            vars.iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| OsString::from(value))
        })
    }

    const ADD: [(&str, &str); 5] = [
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "c1"),
        ("CNI_NETNS", "/run/netns/a"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_ARGS", "IgnoreUnknown=1;IP=10.0.0.9;K8S_POD_NAME=a=b"),
    ];

    fn with<'a>(name: &'a str, value: &'a str) -> Vec<(&'a str, &'a str)> {
        let mut vars: Vec<_> = ADD.into_iter().filter(|(key, _)| *key != name).collect();
        vars.push((name, value));
        vars
    }

    #[test]
    fn add_is_read() {
        let env = parse(&ADD).unwrap();
        assert_eq!(env.command(), Command::Add);
        assert_eq!((env.container_id(), env.ifname()), ("c1", "eth0"));
        assert_eq!(env.netns(), Some("/run/netns/a"));
        assert_eq!(env.arg("IP"), Some("10.0.0.9"));
        assert_eq!(env.arg("K8S_POD_NAME"), Some("a=b"));
        assert_eq!(env.arg("MAC"), None);
    }

    #[test]
    fn all_wrong_variables_are_named_at_once() {
        let error = parse(&[("CNI_COMMAND", "ADD"), ("CNI_IFNAME", "eth0/1")]).unwrap_err();
        assert_eq!(error.code, 4);
        for name in [
            "CNI_CONTAINERID is not set",
            "CNI_NETNS is not set",
            "CNI_IFNAME \"eth0/1\"",
        ] {
            assert!(error.msg.contains(name), "{name} missing in: {}", error.msg);
        }
    }

    #[test]
    fn missing_and_unknown_commands_are_named() {
        assert!(
            parse(&[])
                .unwrap_err()
                .msg
                .contains("CNI_COMMAND is not set")
        );
        assert!(
            parse(&[("CNI_COMMAND", "add")])
                .unwrap_err()
                .msg
                .contains("\"add\"")
        );
    }

    #[test]
    fn del_may_lack_the_namespace_and_check_may_not() {
        let vars = |command| {
            [
                ("CNI_COMMAND", command),
                ("CNI_CONTAINERID", "c"),
                ("CNI_IFNAME", "eth0"),
                ("CNI_NETNS", ""),
            ]
        };
        assert_eq!(parse(&vars("DEL")).unwrap().netns(), None);
        assert!(parse(&vars("CHECK")).is_err());
        assert!(parse(&with("CNI_NETNS", "relative")).is_err());
    }

    #[test]
    fn status_gc_and_version_need_only_the_command() {
        for command in ["STATUS", "GC", "VERSION"] {
            let vars = [
                ("CNI_COMMAND", command),
                ("CNI_NETNS", "dummy"),
                ("CNI_IFNAME", "a/b"),
            ];
            let env = parse(&vars).unwrap();
            assert_eq!(
                (env.netns(), env.ifname(), env.container_id()),
                (None, "", "")
            );
        }
    }

    #[test]
    fn names_keep_the_rules() {
        for id in ["a", "0", "a.b_c-d", &"f".repeat(300)] {
            assert!(parse(&with("CNI_CONTAINERID", id)).is_ok(), "{id}");
        }
        for id in ["-a", ".a", "_a", "a/b", "a b", "ä", "a\n"] {
            assert!(parse(&with("CNI_CONTAINERID", id)).is_err(), "{id}");
        }
        for name in ["a", "123456789012345", "eth0.1@x"] {
            assert_eq!(ifname_problem(name), None, "{name}");
        }
        for name in [
            "",
            "1234567890123456",
            ".",
            "..",
            "a b",
            "a\tb",
            "a:b",
            "a/b",
            "eth%d",
            "a\0",
        ] {
            assert!(ifname_problem(name).is_some(), "{name}");
        }
    }

    #[test]
    fn malformed_arguments_fail_add_only() {
        assert!(
            parse(&with("CNI_ARGS", "novalue"))
                .unwrap_err()
                .msg
                .contains("CNI_ARGS")
        );
        assert!(parse(&with("CNI_ARGS", ";;A=b;")).is_ok());
        let mut del = with("CNI_ARGS", "novalue");
        del[0].1 = "DEL";
        assert!(parse(&del).is_ok());
    }

    #[test]
    fn a_decoded_environment_is_checked_too() {
        let text = serde_json::to_string(&parse(&ADD).unwrap()).unwrap();
        assert_eq!(
            serde_json::from_str::<Environment>(&text).unwrap(),
            parse(&ADD).unwrap()
        );
        let forged = text.replace("eth0", "../../x");
        assert!(serde_json::from_str::<Environment>(&forged).is_err());
    }

    #[cfg(unix)]
    #[test]
    fn text_that_is_not_utf8_is_named() {
        use std::os::unix::ffi::OsStringExt;
        let error = Environment::from_vars(|name| match name {
            "CNI_IFNAME" => Some(OsString::from_vec(vec![0xff])),
            _ => ADD
                .iter()
                .find(|(k, _)| *k == name)
                .map(|(_, v)| OsString::from(v)),
        })
        .unwrap_err();
        assert!(
            error.msg.contains("CNI_IFNAME is not UTF-8"),
            "{}",
            error.msg
        );
    }
}
