use super::*;

fn chosen(text: &str, usable: &[usize]) -> Result<Vec<usize>, String> {
    text.parse::<WantedCpus>()?.among(usable)
}

#[test]
fn a_count_takes_the_first_cpus_this_process_may_use() {
    assert_eq!(chosen("2", &[0, 1, 2, 3]), Ok(vec![0, 1]));
    assert_eq!(chosen("2", &[5, 7, 9]), Ok(vec![5, 7]));
    assert_eq!(chosen("1", &[5]), Ok(vec![5]));
}

#[test]
fn a_list_takes_exactly_those_cpus_in_its_order() {
    let eight = [0, 1, 2, 3, 4, 5, 6, 7];
    assert_eq!(chosen("0-3,6", &eight), Ok(vec![0, 1, 2, 3, 6]));
    assert_eq!(chosen("6,0-1", &eight), Ok(vec![6, 0, 1]));
    assert_eq!(chosen("5-5", &eight), Ok(vec![5]));
    assert_eq!(chosen("5,", &eight), Ok(vec![5]));
    assert_eq!(chosen("4-5,", &eight), Ok(vec![4, 5]));
}

#[test]
fn a_wrong_list_is_refused_with_what_is_right() {
    for (text, mend) in [
        ("", "write 2 for the first two"),
        ("0", "write 2 for the first two"),
        ("two", "write 2 for the first two"),
        ("+2", "write 2 for the first two"),
        (",", "'' is not a CPU"),
        ("-", "'-' is not a CPU"),
        ("-1", "'-1' is not a CPU"),
        ("0-", "'0-' is not a CPU"),
        ("0,,1", "'' is not a CPU"),
        ("0,1,,", "'' is not a CPU"),
        ("0-1-2", "'0-1-2' is not a CPU"),
        ("0, 1", "' 1' is not a CPU"),
        ("0,+1", "'+1' is not a CPU"),
        ("3-0", "write 0-3"),
        ("1,1", "CPU 1 is there twice"),
        ("0-3,2-5", "CPU 2 is there twice"),
        ("4,0-9", "CPU 4 is there twice"),
        ("0-99999999999999999999", "is not a CPU"),
    ] {
        let refused = text.parse::<WantedCpus>().err().unwrap_or_default();
        assert!(refused.contains(mend), "{text:?} gave {refused:?}, should say {mend:?}");
    }
}

#[test]
fn cpus_this_process_may_not_use_are_refused_with_those_it_may() {
    for (text, usable, mend) in [
        ("3", &[0, 1][..], "more than the 2 CPUs this process may use (0-1); write 2 or less"),
        ("2", &[4], "more than the 1 CPU this process may use (4); write 1 or less"),
        ("0-3", &[0, 1], "no CPU 2 for this process; choose among 0-1"),
        ("1,", &[0, 2, 3, 4, 7], "no CPU 1 for this process; choose among 0,2-4,7"),
        // Fails at once, without going through the range.
        ("0-18446744073709551615", &[0, 1], "no CPU 2 for this process; choose among 0-1"),
    ] {
        assert_eq!(chosen(text, usable), Err(mend.to_owned()), "{text}");
    }
}

#[test]
fn usable_is_every_cpu_of_the_affinity_mask() {
    // In a thread of its own, so that the test's thread keeps its mask.
    let (all, narrowed) = std::thread::spawn(|| {
        let all = usable().unwrap();
        let last = *all.last().unwrap();
        assert!(core_affinity::set_for_current(core_affinity::CoreId { id: last }));
        (all, usable().unwrap())
    })
    .join()
    .unwrap();
    assert_eq!(narrowed, all[all.len() - 1..]);
    assert_eq!(usable().unwrap(), all);
}
