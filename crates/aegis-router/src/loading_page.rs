//! The page that a browser shows while an instance wakes, and those for when that fails. Pure.

use crate::backend::{Refusal, Target};

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

fn page(title: &str, text: &str, refresh: bool) -> String {
    let refresh = if refresh { "<meta http-equiv=\"refresh\" content=\"1\">" } else { "" };
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">{refresh}<title>{title}</title>\
         <style>body{{font:16px system-ui,sans-serif;margin:20vh auto;max-width:32em;text-align:center;color:#345}}\
         </style></head><body><h1>{title}</h1><p>{text}</p></body></html>\n"
    )
}

/// A page that refreshes itself until the instance is up.
pub(crate) fn waiting_page(target: &Target, state: &str) -> String {
    let name = escape(&target.name);
    page(
        &format!("{name} is waking up"),
        &format!("It is {}. This page looks again every second.", escape(state)),
        true,
    )
}

/// A page for somebody whose instance did not come up.
pub(crate) fn failure_page(target: &Target, refusal: &Refusal) -> String {
    let name = escape(&target.name);
    page(&format!("{name} cannot be reached"), &escape(&refusal.to_string()), false)
}

/// A page that lists the names there are.
pub(crate) fn names_page(message: &str, names: &[String]) -> String {
    let list: String = names.iter().map(|name| format!("<br>{}", escape(name))).collect();
    page("No such instance", &format!("{}{list}", escape(message)), false)
}

/// A page for somebody who is not let in.
pub(crate) fn refusal_page(message: &str) -> String {
    page("Not served", &escape(message), false)
}
