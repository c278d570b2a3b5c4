//! DNS messages (RFC 1035), as far as the resolver needs to understand them.

use std::net::IpAddr;
use std::time::Duration;

use aegis_policy::Name;
use simple_dns::rdata::{A, AAAA, OPT, RData};
use simple_dns::{
    CLASS, OPCODE, Packet, PacketFlag, QCLASS, QTYPE, Question, RCODE, ResourceRecord, TYPE, header_buffer,
};

/// Longest question that is understood.
const MOST_QUESTION: usize = 512;
/// Longest answer over UDP without an agreement on more (RFC 1035), and with one (RFC 9715).
const PLAIN: usize = 512;
const AGREED: usize = 1232;
/// Longest that an answer without a record holds.
const NOTHING_HOLDS: Duration = Duration::from_secs(30);
/// Offset of the first question in a message.
const QUESTION_AT: usize = 12;
/// Longest label; what is longer is none, but points to one.
const MOST_LABEL: usize = 63;
/// Offset of the flags in a message, and the one that says that it was cut.
const FLAGS_AT: usize = 2;
const TRUNCATED: u8 = 0x02;

/// A question of the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Query {
    /// Its number.
    pub(crate) id: u16,
    /// The name, if it is one of a host.
    pub(crate) name: Option<Name>,
    /// What is asked, the same for the same question.
    pub(crate) key: (String, u16, bool),
    /// How long an answer over UDP may be.
    pub(crate) most: usize,
    kind: QTYPE,
    /// The name as it was written, in its wire format: whoever mixes upper and lower case wants the same back.
    written: Vec<u8>,
}

/// The name at this place, in its wire format, if it is written out.
fn written_name(bytes: &[u8], at: usize) -> Option<&[u8]> {
    let mut end = at;
    loop {
        match usize::from(*bytes.get(end)?) {
            0 => return bytes.get(at..=end),
            length if length <= MOST_LABEL => end += length + 1,
            _ => return None,
        }
    }
}

/// Why a message is no question that can be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unanswerable {
    /// It gets no answer at all.
    Silence,
    /// It gets this.
    Code(RCODE),
}

impl Query {
    /// Reads a question.
    pub(crate) fn read(bytes: &[u8]) -> Result<Query, Unanswerable> {
        if bytes.len() < QUESTION_AT || header_buffer::has_flags(bytes, PacketFlag::RESPONSE).unwrap_or(true)
        {
            return Err(Unanswerable::Silence);
        }
        if bytes.len() > MOST_QUESTION {
            return Err(Unanswerable::Code(RCODE::FormatError));
        }
        let packet = Packet::parse(bytes).map_err(|_| Unanswerable::Code(RCODE::FormatError))?;
        if packet.opcode() != OPCODE::StandardQuery {
            return Err(Unanswerable::Code(RCODE::NotImplemented));
        }
        let [question] = packet.questions.as_slice() else {
            return Err(Unanswerable::Code(RCODE::FormatError));
        };
        let written = written_name(bytes, QUESTION_AT).ok_or(Unanswerable::Code(RCODE::FormatError))?;
        if question.qclass != QCLASS::CLASS(CLASS::IN) {
            return Err(Unanswerable::Code(RCODE::NotImplemented));
        }
        let kind = match question.qtype {
            QTYPE::TYPE(kind) => QTYPE::TYPE(kind),
            QTYPE::ANY => QTYPE::ANY,
            // Transfers of whole zones.
            _ => return Err(Unanswerable::Code(RCODE::NotImplemented)),
        };
        let text = question.qname.to_string().to_ascii_lowercase();
        let extended = packet.opt();
        let most =
            extended.map_or(PLAIN, |extended| usize::from(extended.udp_packet_size).clamp(PLAIN, AGREED));
        Ok(Query {
            id: packet.id(),
            name: Name::new(&text).ok(),
            key: (text, u16::from(kind), extended.is_some()),
            most,
            kind,
            written: written.to_vec(),
        })
    }

    /// The question as it is asked on the host's side: nothing of the guest's message but what is asked.
    pub(crate) fn outward(&self, id: u16) -> Option<Vec<u8>> {
        let mut packet = Packet::new_query(id);
        packet.set_flags(PacketFlag::RECURSION_DESIRED);
        packet.questions.push(self.question()?);
        if self.key.2 {
            let size = u16::try_from(AGREED).unwrap_or(u16::MAX);
            *packet.opt_mut() = Some(OPT { opt_codes: Vec::new(), udp_packet_size: size, version: 0 });
        }
        packet.build_bytes_vec().ok()
    }

    fn question(&self) -> Option<Question<'_>> {
        let name = simple_dns::Name::new(&self.key.0).ok()?;
        Some(Question::new(name, self.kind, CLASS::IN.into(), false))
    }

    /// Whether addresses are asked for.
    pub(crate) fn asks_for_addresses(&self) -> bool {
        matches!(self.kind, QTYPE::TYPE(TYPE::A | TYPE::AAAA))
    }

    /// Whether it asks how to reach a service (RFC 9460): the answer would hold keys that hide a name (ECH), and other names
    /// to go to.
    pub(crate) fn asks_for_services(&self) -> bool {
        matches!(self.kind, QTYPE::TYPE(TYPE::SVCB | TYPE::HTTPS))
    }

    /// The answer, or no more than its addresses if it holds more about services.
    pub(crate) fn without_services(&self, answer: &[u8]) -> Vec<u8> {
        let Ok(packet) = Packet::parse(answer) else { return self.failed(RCODE::ServerFailure) };
        let all = packet.answers.iter().chain(&packet.name_servers).chain(&packet.additional_records);
        let mut all = all.map(|record| record.rdata.type_code());
        if !all.any(|kind| matches!(kind, TYPE::SVCB | TYPE::HTTPS)) {
            return answer.to_vec();
        }
        let (addresses, holds): (Vec<IpAddr>, Vec<u32>) =
            records(&packet).map(|(_, address, ttl)| (address, ttl)).unzip();
        let holds = holds.into_iter().min().unwrap_or(0);
        self.addresses(&addresses, Duration::from_secs(holds.into()))
    }

    /// An answer without a record.
    pub(crate) fn failed(&self, code: RCODE) -> Vec<u8> {
        self.reply(code, &[])
    }

    /// An answer with these addresses, as far as they are asked for.
    pub(crate) fn addresses(&self, addresses: &[IpAddr], holds: Duration) -> Vec<u8> {
        let ttl = u32::try_from(holds.as_secs()).unwrap_or(0);
        let records: Vec<(u32, RData<'static>)> = addresses
            .iter()
            .filter_map(|address| match (address, self.kind) {
                (IpAddr::V4(one), QTYPE::TYPE(TYPE::A) | QTYPE::ANY) => {
                    Some((ttl, RData::A(A { address: u32::from(*one) })))
                }
                (IpAddr::V6(one), QTYPE::TYPE(TYPE::AAAA) | QTYPE::ANY) => {
                    Some((ttl, RData::AAAA(AAAA { address: u128::from(*one) })))
                }
                _ => None,
            })
            .collect();
        self.reply(RCODE::NoError, &records)
    }

    fn reply(&self, code: RCODE, records: &[(u32, RData<'static>)]) -> Vec<u8> {
        let mut packet = Packet::new_reply(self.id);
        packet.set_flags(PacketFlag::RECURSION_DESIRED | PacketFlag::RECURSION_AVAILABLE);
        *packet.rcode_mut() = code;
        packet.questions.extend(self.question());
        for (ttl, data) in records {
            if let Ok(name) = simple_dns::Name::new(&self.key.0) {
                packet.answers.push(ResourceRecord::new(name, CLASS::IN, *ttl, data.clone()));
            }
        }
        let mut message = packet.build_bytes_vec().unwrap_or_default();
        self.rewrite(&mut message);
        message
    }

    /// Writes the question's name as the guest has.
    fn rewrite(&self, message: &mut [u8]) {
        let end = QUESTION_AT + self.written.len();
        if let Some(name) =
            message.get_mut(QUESTION_AT..end).filter(|name| name.eq_ignore_ascii_case(&self.written))
        {
            name.copy_from_slice(&self.written);
        }
    }

    /// The answer as the guest gets it: under its number, its name as asked, and no longer than it can take.
    pub(crate) fn fit(&self, answer: &[u8], most: usize) -> Vec<u8> {
        let mut answer = if answer.len() <= most {
            answer.to_vec()
        } else {
            let mut cut = self.reply(RCODE::NoError, &[]);
            if let Some(flags) = cut.get_mut(FLAGS_AT) {
                *flags |= TRUNCATED;
            }
            cut
        };
        if let Some(id) = answer.get_mut(..2) {
            id.copy_from_slice(&self.id.to_be_bytes());
        }
        self.rewrite(&mut answer);
        answer
    }
}

/// A question of our own for the addresses of a name.
pub(crate) fn question(name: &Name, kind: TYPE) -> Option<Vec<u8>> {
    let key = (name.to_string(), u16::from(QTYPE::TYPE(kind)), true);
    let kind = QTYPE::TYPE(kind);
    Query { id: 0, name: None, key, most: AGREED, kind, written: Vec::new() }.outward(0)
}

/// How an answer to it ended, and the addresses that it gives.
pub(crate) fn addresses(answer: &[u8]) -> (RCODE, Vec<IpAddr>) {
    let Ok(packet) = Packet::parse(answer) else { return (RCODE::ServerFailure, Vec::new()) };
    (packet.rcode(), records(&packet).map(|(_, address, _)| address).collect())
}

/// Addresses, each with the name that it is of, in lower case, and the seconds for which it holds.
fn records<'a>(packet: &'a Packet<'_>) -> impl Iterator<Item = (String, IpAddr, u32)> + use<'a> {
    packet.answers.iter().filter_map(|record| {
        let address = match &record.rdata {
            RData::A(one) => IpAddr::V4(one.address.into()),
            RData::AAAA(one) => IpAddr::V6(one.address.into()),
            _ => return None,
        };
        Some((record.name.to_string().to_ascii_lowercase(), address, record.ttl))
    })
}

/// The answer to a message that cannot be read further than its number.
pub(crate) fn refusal(bytes: &[u8], code: RCODE) -> Vec<u8> {
    let mut packet = Packet::new_reply(header_buffer::id(bytes).unwrap_or(0));
    *packet.rcode_mut() = code;
    packet.build_bytes_vec().unwrap_or_default()
}

/// Most names that one is an alias of, one behind the other: resolvers follow fewer.
const MOST_ALIASES: usize = 17;

/// What an answer says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    /// How it ended.
    pub(crate) code: RCODE,
    /// Addresses, each with the time for which it holds.
    pub(crate) addresses: Vec<(IpAddr, Duration)>,
    /// For how long it holds as a whole.
    pub(crate) holds: Duration,
}

/// Reads the answer to a question that was asked under this number; `None` if it is another's.
pub(crate) fn read_answer(bytes: &[u8], id: u16, query: &Query) -> Option<Answer> {
    let packet = Packet::parse(bytes).ok()?;
    let question = packet.questions.first()?;
    let same = packet.id() == id
        && packet.has_flags(PacketFlag::RESPONSE)
        && packet.questions.len() == 1
        && question.qname.to_string().eq_ignore_ascii_case(&query.key.0)
        && u16::from(question.qtype) == query.key.1;
    if !same {
        return None;
    }
    let seconds = |ttl: u32| Duration::from_secs(ttl.into());
    let owners = owners(&packet, &question.qname);
    let belonging = records(&packet).filter(|(owner, ..)| owners.contains(owner));
    let addresses = belonging.map(|(_, address, ttl)| (address, seconds(ttl)));
    let holds = packet.answers.iter().map(|record| seconds(record.ttl)).min();
    let holds = holds.unwrap_or_else(|| {
        let said = packet.name_servers.iter().map(|record| seconds(record.ttl)).min();
        said.unwrap_or(Duration::ZERO).min(NOTHING_HOLDS)
    });
    Some(Answer { code: packet.rcode(), addresses: addresses.collect(), holds })
}

/// The names whose records answer a question for `name`: itself, and what it is an alias of (RFC 1034, 3.6.2).
fn owners(packet: &Packet<'_>, name: &simple_dns::Name<'_>) -> Vec<String> {
    let lower = |name: &simple_dns::Name<'_>| name.to_string().to_ascii_lowercase();
    let mut owners = vec![lower(name)];
    // Each round finds one more; a circle finds none.
    while owners.len() < MOST_ALIASES {
        let next = packet.answers.iter().find_map(|record| match &record.rdata {
            RData::CNAME(alias) if owners.contains(&lower(&record.name)) => {
                Some(lower(&alias.0)).filter(|target| !owners.contains(target))
            }
            _ => None,
        });
        let Some(next) = next else { break };
        owners.push(next);
    }
    owners
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn asked(name: &str, kind: TYPE) -> Vec<u8> {
        let mut packet = Packet::new_query(7);
        let name = simple_dns::Name::new(name).unwrap();
        packet.questions.push(Question::new(name, kind.into(), CLASS::IN.into(), false));
        packet.build_bytes_vec().unwrap()
    }

    #[test]
    fn a_question_and_its_answer_are_read_as_written() {
        let query = Query::read(&asked("Api.Example.com", TYPE::A)).unwrap();
        assert_eq!(query.name, Some(Name::new("api.example.com").unwrap()));
        let outward = query.outward(99).unwrap();
        assert_eq!(Query::read(&outward).unwrap().key, query.key);
        let address: IpAddr = "203.0.113.7".parse().unwrap();
        let reply = query.addresses(&[address, "::1".parse().unwrap()], Duration::from_secs(60));
        let answer = read_answer(&reply, 7, &query).unwrap();
        assert_eq!(answer.addresses, [(address, Duration::from_secs(60))]);
        assert_eq!(read_answer(&reply, 8, &query), None);
        let other = Query::read(&asked("b.example.com", TYPE::A)).unwrap();
        assert_eq!(read_answer(&reply, 7, &other), None);
    }

    #[test]
    fn only_records_of_the_name_that_was_asked_for_and_of_its_aliases_count() {
        let query = Query::read(&asked("www.example.com", TYPE::A)).unwrap();
        let mut packet = Packet::new_reply(7);
        let name = |text: &'static str| simple_dns::Name::new(text).unwrap();
        packet.questions.push(Question::new(
            name("www.example.com"),
            TYPE::A.into(),
            CLASS::IN.into(),
            false,
        ));
        let mut add = |owner: &'static str, data: RData<'static>| {
            packet.answers.push(simple_dns::ResourceRecord::new(name(owner), CLASS::IN, 60, data));
        };
        let address =
            |last: u8| RData::A(simple_dns::rdata::A { address: u32::from_be_bytes([203, 0, 113, last]) });
        let alias = |target: &'static str| RData::CNAME(simple_dns::rdata::CNAME(name(target)));
        // In any order, and with a circle.
        add("B.cdn.example", address(1));
        add("a.cdn.example", alias("b.cdn.example"));
        add("WWW.example.com", alias("a.cdn.example"));
        add("b.cdn.example", alias("www.example.com"));
        add("unrelated.example", address(2));
        add("www.example.com.evil.example", address(3));
        let reply = packet.build_bytes_vec().unwrap();
        let found: Vec<IpAddr> =
            read_answer(&reply, 7, &query).unwrap().addresses.iter().map(|one| one.0).collect();
        assert_eq!(found, ["203.0.113.1".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn what_is_too_long_for_the_guest_is_cut_and_says_so() {
        let query = Query::read(&asked("a.example", TYPE::TXT)).unwrap();
        let cut = query.fit(&[0; 600], query.most);
        assert!(header_buffer::has_flags(&cut, PacketFlag::TRUNCATION).unwrap() && cut.len() < 100);
    }

    #[test]
    fn a_name_comes_back_as_it_was_written() {
        let asked = asked("aPi.ExAmple.COM", TYPE::A);
        let query = Query::read(&asked).unwrap();
        let section = &asked[QUESTION_AT..];
        let theirs = Query::read(&query.outward(9).unwrap()).unwrap();
        assert_eq!(theirs.written, section[..section.len() - 4].to_ascii_lowercase());
        // What a server has said, or we ourselves, or was kept of an answer to somebody who wrote it in another way.
        for answer in [
            query.fit(&theirs.addresses(&["203.0.113.7".parse().unwrap()], Duration::ZERO), query.most),
            query.addresses(&["203.0.113.7".parse().unwrap()], Duration::ZERO),
            query.failed(RCODE::Refused),
            query.fit(&[0; 600], query.most),
        ] {
            assert_eq!(&answer[QUESTION_AT..QUESTION_AT + section.len()], section);
            assert_eq!(Packet::parse(&answer).unwrap().questions.len(), 1);
        }
    }

    #[test]
    fn what_is_no_plain_question_is_not_answered() {
        let whole = asked("a.example", TYPE::A);
        let change = |at: usize, bytes: &[u8]| {
            let mut message = whole.clone();
            message[at..at + bytes.len()].copy_from_slice(bytes);
            Query::read(&message).err()
        };
        let class = whole.len() - 2;
        assert_eq!(change(class, &[0, 3]), Some(Unanswerable::Code(RCODE::NotImplemented)));
        assert_eq!(change(QUESTION_AT, &[0xc0, 12]), Some(Unanswerable::Code(RCODE::FormatError)));
        assert_eq!(change(5, &[2]), Some(Unanswerable::Code(RCODE::FormatError)));
    }

    #[test]
    fn records_of_services_are_not_passed_on() {
        use simple_dns::rdata::{HTTPS, SVCB};
        let service = Query::read(&asked("a.example", TYPE::HTTPS)).unwrap();
        assert!(service.asks_for_services());
        let query = Query::read(&asked("a.example", TYPE::A)).unwrap();
        let address: IpAddr = "203.0.113.7".parse().unwrap();
        let plain = query.addresses(&[address], Duration::from_secs(9));
        assert_eq!(query.without_services(&plain), plain);
        let mut packet = Packet::parse(&plain).unwrap();
        let name = simple_dns::Name::new("a.example").unwrap();
        let record = RData::HTTPS(HTTPS(SVCB::new(1, name.clone())));
        packet.additional_records.push(ResourceRecord::new(name, CLASS::IN, 9, record));
        let with = packet.build_bytes_vec().unwrap();
        assert!(with.len() > plain.len());
        assert_eq!(query.without_services(&with), plain);
        assert!(query.without_services(b"x").len() > 12);
    }

    proptest! {
        #[test]
        fn arbitrary_messages_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..600), at in 0usize..40, byte: u8) {
            let query = Query::read(&asked("a.example", TYPE::A)).unwrap();
            for mut message in [bytes, asked("a.b.example.com", TYPE::AAAA), query.addresses(&["1.2.3.4".parse().unwrap()], Duration::ZERO)] {
                if let Some(one) = message.get_mut(at) { *one = byte; }
                if let Ok(found) = Query::read(&message) {
                    let _out = found.outward(1);
                    let _reply = found.failed(RCODE::Refused);
                }
                let _answer = read_answer(&message, 7, &query);
                let _answer = query.without_services(&message);
                let _answer = query.fit(&message, query.most);
                let _addresses = addresses(&message);
                let _refusal = refusal(&message, RCODE::FormatError);
            }
        }
    }
}
