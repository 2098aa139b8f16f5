use super::*;

#[test]
fn the_two_listeners_are_never_at_one_place() {
    for (control, public, overlaps) in [
        ("127.0.0.1:80", "127.0.0.1:80", true),
        ("127.0.0.1:80", "0.0.0.0:80", true),
        ("127.0.0.1:80", "[::]:80", true),
        ("0.0.0.0:80", "10.0.0.1:80", true),
        ("[::ffff:10.0.0.1]:80", "10.0.0.1:80", true),
        ("127.0.0.1:80", "127.0.0.1:81", false),
        ("127.0.0.1:80", "10.0.0.1:80", false),
        ("127.0.0.1:0", "127.0.0.1:0", false),
        ("127.0.0.1:0", "0.0.0.0:0", false),
    ] {
        let public: SocketAddr = public.parse().unwrap();
        let control = Control::new(control.parse().unwrap());
        assert_eq!(control.overlaps(public.ip(), public.port()), overlaps, "{control:?} {public}");
    }
}

#[test]
fn other_machines_reach_any_address_but_loopback() {
    for (bind, exposed) in [
        ("127.0.0.1:80", false),
        ("127.1.2.3:80", false),
        ("[::1]:80", false),
        ("[::ffff:127.0.0.1]:80", false),
        ("0.0.0.0:80", true),
        ("[::]:80", true),
        ("10.0.0.1:80", true),
        ("[::ffff:10.0.0.1]:80", true),
    ] {
        assert_eq!(Control::new(bind.parse().unwrap()).is_exposed(), exposed, "{bind}");
    }
}
