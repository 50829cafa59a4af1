// SPDX-License-Identifier: GPL-3.0-only
//! A look: what is asked of the daemon at once, and what it told.

use std::time::Duration;

use policyd_api::{Client, ClientError, Domain, Flow, Process, Signals, SignalsQuery, Stats, Status};
use policyd_api::{ThreatQuery, Threats};

/// What is wanted beside what the header always shows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wants {
    /// Processes of this domain.
    pub processes: Option<String>,
    /// Flows: of one domain, or of all.
    pub flows: Option<Option<String>>,
    /// Threats are in the header, too, where it does not matter if they are some seconds old.
    pub threats_now: bool,
}

/// An answer; a refusal is in the daemon's words.
pub type Answer<T> = Result<T, String>;

/// An answer, and when it came: on a clock that only goes forward.
#[derive(Debug, Clone)]
pub struct Told<T> {
    /// Since the tool began.
    pub at: Duration,
    /// What was told.
    pub answer: Answer<T>,
}

/// What the daemon told at one look; what was not asked is none.
#[derive(Debug, Clone, Default)]
pub struct Look {
    /// When it was over, since the tool began.
    pub at: Duration,
    /// Why the daemon did not answer; then there is nothing else, or not all.
    pub away: Option<String>,
    /// The daemon itself.
    pub status: Option<Told<Status>>,
    /// All domains.
    pub domains: Option<Told<Vec<Domain>>>,
    /// What vifs count.
    pub stats: Option<Told<Stats>>,
    /// How services fare.
    pub signals: Option<Told<Signals>>,
    /// What looks like an attack.
    pub threats: Option<Told<Threats>>,
    /// Processes, and of which domain.
    pub processes: Option<(String, Told<Vec<Process>>)>,
    /// Flows, and of which domain.
    pub flows: Option<(Option<String>, Told<Vec<Flow>>)>,
}

/// Who answers. The daemon; in tests somebody else.
pub trait Source {
    /// The daemon itself.
    fn status(&self) -> Result<Status, ClientError>;
    /// All domains.
    fn domains(&self) -> Result<Vec<Domain>, ClientError>;
    /// What vifs count.
    fn stats(&self) -> Result<Stats, ClientError>;
    /// How services fare.
    fn signals(&self) -> Result<Signals, ClientError>;
    /// What looks like an attack.
    fn threats(&self) -> Result<Threats, ClientError>;
    /// Processes of a domain.
    fn processes(&self, domain: &str) -> Result<Vec<Process>, ClientError>;
    /// Flows of a domain, or all.
    fn flows(&self, domain: Option<&str>) -> Result<Vec<Flow>, ClientError>;
}

impl Source for Client {
    fn status(&self) -> Result<Status, ClientError> {
        Client::status(self)
    }

    fn domains(&self) -> Result<Vec<Domain>, ClientError> {
        Client::domains(self)
    }

    fn stats(&self) -> Result<Stats, ClientError> {
        Client::stats(self, None)
    }

    fn signals(&self) -> Result<Signals, ClientError> {
        Client::signals(self, &SignalsQuery::default())
    }

    fn threats(&self) -> Result<Threats, ClientError> {
        Client::threats(self, &ThreatQuery::default())
    }

    fn processes(&self, domain: &str) -> Result<Vec<Process>, ClientError> {
        Client::processes(self, domain)
    }

    fn flows(&self, domain: Option<&str>) -> Result<Vec<Flow>, ClientError> {
        Client::flows(self, domain)
    }
}

/// What a look asks beside `wants`: dearer questions have their own, longer times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    /// Whether what the header shows is asked for.
    pub base: bool,
    /// Whether threats are asked for.
    pub threats: bool,
    /// Whether processes are: the daemon reads them from the guest's memory.
    pub processes: bool,
}

/// Asks. The first question that finds no daemon is the last.
pub fn look(source: &impl Source, wants: &Wants, due: Due, clock: impl Fn() -> Duration) -> Look {
    let mut look = Look::default();
    let asked = ask(source, wants, due, &clock, &mut look);
    look.away = asked.err().map(|e| e.to_string());
    look.at = clock();
    look
}

fn ask(
    source: &impl Source,
    wants: &Wants,
    due: Due,
    clock: &impl Fn() -> Duration,
    look: &mut Look,
) -> Result<(), ClientError> {
    if due.base {
        look.status = Some(told(source.status(), clock)?);
        look.domains = Some(told(source.domains(), clock)?);
        look.stats = Some(told(source.stats(), clock)?);
        look.signals = Some(told(source.signals(), clock)?);
    }
    if due.threats {
        look.threats = Some(told(source.threats(), clock)?);
    }
    if let Some(domain) = wants.processes.as_ref().filter(|_| due.processes) {
        look.processes = Some((domain.clone(), told(source.processes(domain), clock)?));
    }
    if let Some(domain) = &wants.flows {
        look.flows = Some((domain.clone(), told(source.flows(domain.as_deref()), clock)?));
    }
    Ok(())
}

/// A refusal is an answer, too.
fn told<T>(answer: Result<T, ClientError>, clock: &impl Fn() -> Duration) -> Result<Told<T>, ClientError> {
    let answer = match answer {
        Ok(answer) => Ok(answer),
        // An older daemon does not know the question, and has no words for that.
        Err(ClientError::Refused { status: 404, message }) if message.starts_with("policyd answered") => {
            Err("this policyd does not tell that; a newer one does".to_owned())
        }
        Err(ClientError::Refused { message, .. }) => Err(message),
        Err(away) => return Err(away),
    };
    Ok(Told { at: clock(), answer })
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    /// A question, and what goes wrong with it.
    type Odd = Option<(&'static str, fn() -> ClientError)>;

    /// A daemon that knows nothing, and notes what it is asked.
    struct Empty {
        asked: RefCell<Vec<&'static str>>,
        /// To this question it has another answer.
        odd: Odd,
    }

    impl Empty {
        fn answer<T>(&self, question: &'static str, answer: T) -> Result<T, ClientError> {
            self.asked.borrow_mut().push(question);
            match self.odd {
                Some((odd, error)) if odd == question => Err(error()),
                _ => Ok(answer),
            }
        }
    }

    impl Source for Empty {
        fn status(&self) -> Result<Status, ClientError> {
            let status = r#"{ "version": "1", "pid": 1, "guardian": null, "uptime": 1, "generation": 1, "xen": "4", "events_lost": 0 }"#;
            self.answer("status", serde_json::from_str(status).expect("a status"))
        }

        fn domains(&self) -> Result<Vec<Domain>, ClientError> {
            self.answer("domains", Vec::new())
        }

        fn stats(&self) -> Result<Stats, ClientError> {
            self.answer("stats", Stats::default())
        }

        fn signals(&self) -> Result<Signals, ClientError> {
            self.answer("signals", Signals::default())
        }

        fn threats(&self) -> Result<Threats, ClientError> {
            self.answer("threats", Threats::default())
        }

        fn processes(&self, _: &str) -> Result<Vec<Process>, ClientError> {
            self.answer("processes", Vec::new())
        }

        fn flows(&self, _: Option<&str>) -> Result<Vec<Flow>, ClientError> {
            self.answer("flows", Vec::new())
        }
    }

    fn asked(wants: &Wants, due: Due, odd: Odd) -> (Vec<&'static str>, Look) {
        let source = Empty {
            asked: RefCell::default(),
            odd,
        };
        let look = look(&source, wants, due, || Duration::from_secs(7));
        (source.asked.into_inner(), look)
    }

    const ALL: Due = Due {
        base: true,
        threats: true,
        processes: true,
    };

    fn of_web1() -> Wants {
        Wants {
            processes: Some("web1".into()),
            flows: Some(Some("web1".into())),
            threats_now: false,
        }
    }

    #[test]
    fn only_what_is_wanted_and_due_is_asked() {
        let header = ["status", "domains", "stats", "signals", "threats"];
        assert_eq!(asked(&Wants::default(), ALL, None).0, header);
        let (questions, look) = asked(&of_web1(), ALL, None);
        assert_eq!(questions[5..], ["processes", "flows"]);
        assert_eq!(
            look.processes.map(|(of, told)| (of, told.at.as_secs())),
            Some(("web1".into(), 7))
        );
        let seldom = Due {
            base: false,
            threats: false,
            processes: false,
        };
        let (questions, look) = asked(&of_web1(), seldom, None);
        assert_eq!(questions, ["flows"]);
        assert!(look.domains.is_none() && look.processes.is_none() && look.away.is_none());
    }

    #[test]
    fn the_first_question_that_finds_nobody_is_the_last() {
        let away = || ClientError::Protocol("it broke off".into());
        let (questions, look) = asked(&of_web1(), ALL, Some(("domains", away)));
        assert_eq!(questions, ["status", "domains"]);
        assert!(look.away.is_some_and(|why| why.contains("it broke off")));
        assert!(look.status.is_some(), "what it told before counts");
    }

    #[test]
    fn a_refusal_is_an_answer_in_the_daemons_words() {
        let refused = || ClientError::Refused {
            status: 403,
            message: "you are no viewer".into(),
        };
        let (questions, look) = asked(&of_web1(), ALL, Some(("signals", refused)));
        assert_eq!((questions.len(), look.away), (7, None));
        let answer = look.signals.map(|told| told.answer.err());
        assert_eq!(answer, Some(Some("you are no viewer".into())));
        let unknown = || ClientError::Refused {
            status: 404,
            message: "policyd answered 404 Not Found: ".into(),
        };
        let answer = asked(&of_web1(), ALL, Some(("signals", unknown))).1.signals;
        let words = answer.and_then(|told| told.answer.err()).unwrap_or_default();
        assert!(words.contains("a newer one does"), "{words}");
    }
}
