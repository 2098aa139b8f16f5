//! Addresses to listen on that cannot be together, and those that can.

use super::*;

#[test]
fn listeners_that_cannot_be_together_are_refused_with_the_mend() {
    for (line, variables, refused) in [
        (
            "--bind 127.0.0.1:1,[::1]:2 --port 3",
            &[][..],
            "--bind 127.0.0.1:1,[::1]:2 and --port 3 say two ports; give one of them",
        ),
        (
            "--bind 127.0.0.1 --bind 127.0.0.1:3000",
            &[],
            "--bind 127.0.0.1,127.0.0.1:3000: 127.0.0.1:3000 and 127.0.0.1:3000 are at one place; leave out one of them",
        ),
        (
            "",
            &[("ESPER_BIND", "0.0.0.0,unix:/a,127.0.0.1")],
            "ESPER_BIND=0.0.0.0,unix:/a,127.0.0.1: 0.0.0.0:3000 and 127.0.0.1:3000 are at one place; leave out one of them",
        ),
        (
            "-b unix:/a -b unix:/a",
            &[],
            "--bind unix:/a,unix:/a: unix:/a and unix:/a are at one place; leave out one of them",
        ),
        (
            "-b ::1 -b unix:/a --bind-control unix:/a",
            &[],
            "--bind-control unix:/a: the public port is there, by --bind unix:/a; give them different ports",
        ),
        ("--bind unix:a", &[], "--bind unix:a: not a path from the root; write unix:/run/esper.sock"),
        (
            "--bind-mode 066",
            &[],
            "--bind-mode 066: not a mode; write 600 for this user alone, 660 for a group too, 666 for all of this machine",
        ),
    ] {
        assert_eq!(parse(line, variables), Err(ConfigError::Usage(refused.to_owned())), "{line}");
    }
}

#[test]
fn listeners_that_can_be_together_are_allowed() {
    for line in [
        "--bind 127.0.0.1:1,[::1]:2,0.0.0.0 --port 3",
        "--bind 0.0.0.0,[::]:3000",
        "--bind unix:/a --port 3",
        "--bind unix:/a,unix:/b,127.0.0.1,127.0.0.1:1 --bind-control unix:/c",
    ] {
        assert!(parse(line, &[]).is_ok(), "{line}");
    }
}

#[test]
fn the_flags_of_simple_sse_server_are_taken_as_they_are() {
    let mut expected = unflagged();
    expected.port = 8000;
    expected.control = Some(Control::new("127.0.0.1:8001".parse().unwrap()));
    expected.auth.session.secret = Some(pair("MySuperPassword42", None));
    for line in [
        "-bind 127.0.0.1:8000 -bindctl 127.0.0.1:8001 -secret MySuperPassword42",
        "-bind=127.0.0.1:8000 -bindctl=127.0.0.1:8001 -secret=MySuperPassword42",
        "--bind 127.0.0.1:8000 --bindctl 127.0.0.1:8001 --secret MySuperPassword42",
    ] {
        assert_eq!(parse(line, &[]).as_ref(), Ok(&expected), "{line}");
    }
}

#[test]
fn hosts_of_the_control_port_are_repeated_or_parted_by_commas() {
    for line in ["--control-host A.example --control-host b", "--control-host=a.example,B"] {
        let config = parse(&format!("{WITH_CONTROL} {line}"), &[]).unwrap();
        assert_eq!(config.control.unwrap().hosts, ["a.example", "b"], "{line}");
    }
}
