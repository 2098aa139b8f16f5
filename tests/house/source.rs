//! A file of Rust as words and signs, without its comments, the insides of its literals, and what is compiled for tests
//! alone. Enough to find names and paths; no parser.

/// A word, a number or one sign, and the line it stands on. A literal of text is one token, `"`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Token {
    pub(crate) text: String,
    pub(crate) line: usize,
}

/// Returns the tokens of what the shipped crate is made of: comments, insides of literals and items under
/// `#[cfg(test)]` are left out.
pub(crate) fn shipped_tokens(text: &str) -> Vec<Token> {
    without_tests(tokens(text))
}

fn tokens(text: &str) -> Vec<Token> {
    let bytes = text.as_bytes();
    let (mut tokens, mut at, mut line) = (Vec::new(), 0, 1);
    while at < bytes.len() {
        let end = token_end(bytes, at);
        let piece = &text[at..end];
        let is_left_out =
            piece.starts_with(char::is_whitespace) || piece.starts_with("//") || piece.starts_with("/*");
        if !is_left_out {
            let is_word = piece.starts_with(is_word_start) || piece.starts_with(|c: char| c.is_ascii_digit());
            // One character of a sign, a word, or a literal.
            let text =
                if is_word && !piece.ends_with(['"', '#', '\'']) || end == at + 1 { piece } else { "\"" };
            tokens.push(Token { text: text.to_owned(), line });
        }
        line += piece.matches('\n').count();
        at = end;
    }
    tokens
}

/// Returns where the token, the comment or the white space ends that begins at `at`.
fn token_end(bytes: &[u8], at: usize) -> usize {
    let rest = &bytes[at..];
    let while_ = |is: fn(u8) -> bool, from: usize| {
        rest[from..].iter().position(|byte| !is(*byte)).map_or(bytes.len(), |end| at + from + end)
    };
    let find = |needle: &[u8], from: usize| {
        let found = rest[from..].windows(needle.len()).position(|window| window == needle);
        found.map_or(bytes.len(), |found| at + from + found + needle.len())
    };
    match rest[0] {
        byte if byte.is_ascii_whitespace() => while_(|byte| byte.is_ascii_whitespace(), 0),
        b'/' if rest.starts_with(b"//") => while_(|byte| byte != b'\n', 0),
        b'/' if rest.starts_with(b"/*") => block_comment_end(bytes, at),
        b'"' => quoted_end(bytes, at, b'"'),
        // A character, or else a lifetime, whose name has no second quote behind its first character.
        b'\'' if rest.get(1) == Some(&b'\\') => quoted_end(bytes, at, b'\''),
        b'\'' => {
            let character = std::str::from_utf8(&rest[1..rest.len().min(6)]);
            let first = match character {
                Ok(text) => text.chars().next(),
                Err(error) => std::str::from_utf8(&rest[1..1 + error.valid_up_to()])
                    .ok()
                    .and_then(|text| text.chars().next()),
            };
            let length = first.map_or(1, char::len_utf8);
            if rest.get(1 + length) == Some(&b'\'') { at + length + 2 } else { at + 1 }
        }
        byte if is_word_byte(byte) => {
            let end = while_(is_word_byte, 0);
            let hashes = bytes[end..].iter().take_while(|byte| **byte == b'#').count();
            match (&bytes[at..end], bytes.get(end + hashes)) {
                (b"r" | b"br" | b"cr", Some(b'"')) => {
                    find(&[&b"\""[..], &b"#".repeat(hashes)].concat(), end - at + hashes + 1)
                }
                (b"b" | b"c", Some(b'"')) if hashes == 0 => quoted_end(bytes, end, b'"'),
                (b"b", Some(b'\'')) if hashes == 0 => quoted_end(bytes, end, b'\''),
                _ => end,
            }
        }
        _ => at + 1,
    }
}

fn quoted_end(bytes: &[u8], at: usize, quote: u8) -> usize {
    let mut end = at + 1;
    while end < bytes.len() && bytes[end] != quote {
        end += if bytes[end] == b'\\' { 2 } else { 1 };
    }
    (end + 1).min(bytes.len())
}

fn block_comment_end(bytes: &[u8], at: usize) -> usize {
    let (mut depth, mut end) = (0, at);
    while end < bytes.len() {
        match &bytes[end..] {
            [b'/', b'*', ..] => (depth, end) = (depth + 1, end + 2),
            [b'*', b'/', ..] => (depth, end) = (depth - 1, end + 2),
            _ => end += 1,
        }
        if depth == 0 {
            break;
        }
    }
    end
}

fn is_word_start(c: char) -> bool {
    c == '_' || c.is_alphabetic()
}

fn is_word_byte(byte: u8) -> bool {
    byte == b'_' || byte.is_ascii_alphanumeric() || !byte.is_ascii()
}

/// Leaves out `#[cfg(test)]` and the item behind it, with the item's other attributes.
fn without_tests(tokens: Vec<Token>) -> Vec<Token> {
    let mut kept = Vec::with_capacity(tokens.len());
    let mut at = 0;
    while at < tokens.len() {
        if texts_at(&tokens, at, &["#", "[", "cfg", "(", "test", ")", "]"]) {
            at = item_end(&tokens, at);
        } else {
            kept.push(tokens[at].clone());
            at += 1;
        }
    }
    kept
}

/// Returns where the item ends whose first attribute begins at `at`: behind its `;` or its block. What is no item, but a
/// field, a variant or a match arm, ends at its comma as well, or at the bracket around it.
fn item_end(tokens: &[Token], mut at: usize) -> usize {
    while texts_at(tokens, at, &["#", "["]) {
        at = group_end(tokens, at + 1);
    }
    let head = tokens[at..].iter().take_while(|token| !["(", "{", ":", ";", ","].contains(&&*token.text));
    let is_item =
        texts_at(tokens, at, &["pub", "("]) || head.clone().any(|token| ITEMS.contains(&&*token.text));
    while at < tokens.len() {
        match &*tokens[at].text {
            ";" => return at + 1,
            "," if !is_item => return at + 1,
            ")" | "]" | "}" => return at,
            "{" => {
                let end = group_end(tokens, at);
                let goes_on = tokens.get(end).is_some_and(|next| [";", ",", "="].contains(&&*next.text));
                return if goes_on { end + 1 } else { end };
            }
            "(" | "[" => at = group_end(tokens, at),
            _ => at += 1,
        }
    }
    at
}

/// The words that begin items whose heads may have commas.
const ITEMS: [&str; 9] = ["enum", "fn", "impl", "mod", "static", "struct", "trait", "type", "use"];

/// Returns where the group ends whose bracket is at `at`: behind the bracket that closes it.
pub(crate) fn group_end(tokens: &[Token], at: usize) -> usize {
    let mut depth = 0;
    for (n, token) in tokens.iter().enumerate().skip(at) {
        match &*token.text {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return n + 1;
        }
    }
    tokens.len()
}

/// Whether these texts stand at `at`.
pub(crate) fn texts_at(tokens: &[Token], at: usize, texts: &[&str]) -> bool {
    tokens.len() >= at + texts.len()
        && tokens[at..].iter().zip(texts).all(|(token, text)| token.text == *text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(source: &str) -> String {
        let texts: Vec<_> = shipped_tokens(source).into_iter().map(|token| token.text).collect();
        texts.join(" ")
    }

    #[test]
    fn comments_and_the_insides_of_literals_are_left_out() {
        for (source, expected) in [
            ("a // crate::b\nc", "a c"),
            ("a /* b /* c */ d */ e", "a e"),
            (r#"f("crate::x \" y", 'c', '\'', b'"', b"z")"#, "f ( \" , \" , \" , \" , \" )"),
            (r###"g(r#"a " b"#, br"c\", r"d")"###, "g ( \" , \" , \" )"),
            ("fn h<'a>(x: &'a str, y: 'ä')", "fn h < ' a > ( x : & ' a str , y : \" )"),
            ("1_000.max(0x1f)", "1_000 . max ( 0x1f )"),
            ("\"unfinished", "\""),
        ] {
            assert_eq!(texts(source), expected, "{source}");
        }
    }

    #[test]
    fn what_is_for_tests_alone_is_left_out() {
        for (source, expected) in [
            ("a; #[cfg(test)] mod tests { use crate::b; fn c() {} } d;", "a ; d ;"),
            ("#[cfg(test)]\n#[path = \"x.rs\"]\npub(crate) mod tests; e", "e"),
            ("#[cfg(test)] fn f(g: [u8; 3]) -> bool { h; { i } } j", "j"),
            ("#[cfg(test)] use crate::{k, l}; m", "m"),
            ("#[cfg(test)] pub(crate) fn f<A, B>(a: A) -> HashMap<A, B> { h } w", "w"),
            ("#[cfg(test)] struct N<'a>(&'a u8); o", "o"),
            ("struct P { #[cfg(test)] q: u8, r: u8 }", "struct P { r : u8 }"),
            ("struct S { t: u8, #[cfg(test)] u: u8 }", "struct S { t : u8 , }"),
            ("#[cfg(not(test))] v;", "# [ cfg ( not ( test ) ) ] v ;"),
        ] {
            assert_eq!(texts(source), expected, "{source}");
        }
    }

    #[test]
    fn a_token_knows_its_line() {
        let lines: Vec<_> =
            shipped_tokens("a\n/* b\n */ c \"d\ne\" f").iter().map(|token| token.line).collect();
        assert_eq!(lines, [1, 3, 3, 4]);
    }
}
