//! Traffic control: filters at a device's ingress that hand frames to another device.

use futures_util::StreamExt;
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::tc::{
    TcAction, TcActionAttribute, TcActionMirror, TcActionMirrorOption, TcActionOption,
    TcActionType, TcAttribute, TcFilterU32, TcFilterU32Option, TcHandle, TcMessage, TcMirror,
    TcMirrorActionType, TcOption, TcU32Key, TcU32Selector, TcU32SelectorFlags,
};

use super::{Link, Netlink, NetlinkError, failed};

/// The kind of qdisc that ingress filters live in.
const CLSACT: &str = "clsact";
/// What is asked for must not be there yet.
const NEW: u16 = NLM_F_CREATE | NLM_F_EXCL;

/// What becomes of a frame that a filter matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hand {
    /// It leaves by the target, and nobody else sees it.
    Over,
    /// A copy leaves by the target, and the next filter sees the frame.
    Copy,
}

/// A word of a packet that a filter compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Word {
    /// Octets from the start of the network header, divisible by four.
    pub at: u8,
    /// The bits that are compared, the first octet's uppermost.
    pub mask: u32,
    /// Their value.
    pub value: u32,
}

/// An ingress filter of the kind `u32` with one action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// Its priority, which it has alone: lower ones see a frame first.
    pub priority: u16,
    /// The ethertype that it looks at; [`Filter::ALL`] for any.
    pub ethertype: u16,
    /// All of these must match. None: every frame.
    pub words: Vec<Word>,
    /// What becomes of the frame.
    pub hand: Hand,
    /// Index of the interface that it is handed to.
    pub target: u32,
}

impl Filter {
    /// Any ethertype (`ETH_P_ALL`).
    pub const ALL: u16 = 3;
}

/// An ingress filter as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PresentFilter {
    /// Its priority.
    pub priority: u16,
    /// The ethertype that it looks at.
    pub ethertype: u16,
    /// Its kind, such as `u32` or `bpf`.
    pub kind: String,
    /// What it does, where that is one that [`Filter`] can say.
    pub filter: Option<Filter>,
}

impl Netlink {
    /// Makes sure that a device has the qdisc `clsact`. Returns whether it had none.
    ///
    /// # Errors
    /// `EEXIST` when it has the older `ingress` in its place.
    pub async fn add_clsact(&self, link: &Link) -> Result<bool, NetlinkError> {
        if self.has_clsact(link).await? {
            return Ok(false);
        }
        let doing = || format!("add the qdisc clsact to \"{}\"", link.name);
        let message = RouteNetlinkMessage::NewQueueDiscipline(clsact(link));
        self.tc_request(message, NEW, doing).await?;
        Ok(true)
    }

    /// Whether a device has the qdisc `clsact`.
    ///
    /// # Errors
    /// See [`NetlinkError`].
    pub async fn has_clsact(&self, link: &Link) -> Result<bool, NetlinkError> {
        let index = index(link);
        let doing = || format!("list the qdiscs of \"{}\"", link.name);
        let all: Vec<TcMessage> = self
            .dump(|| self.handle.qdisc().get().index(index).execute())
            .await
            .map_err(|error| failed(doing(), error))?;
        Ok(all
            .iter()
            .any(|qdisc| qdisc.header.index == index && kind(qdisc) == Some(CLSACT)))
    }

    /// Deletes a device's qdisc `clsact` with all filters.
    ///
    /// # Errors
    /// [`NetlinkError::is_not_found`] when it has none.
    pub async fn delete_clsact(&self, link: &Link) -> Result<(), NetlinkError> {
        let doing = || format!("delete the qdisc clsact of \"{}\"", link.name);
        let message = RouteNetlinkMessage::DelQueueDiscipline(clsact(link));
        self.tc_request(message, 0, doing).await
    }

    /// The filters at a device's ingress; none when it has no qdisc for them.
    ///
    /// # Errors
    /// See [`NetlinkError`].
    pub async fn ingress_filters(&self, link: &Link) -> Result<Vec<PresentFilter>, NetlinkError> {
        self.filters(link, TcHandle::MIN_INGRESS).await
    }

    /// The filters at a device's egress; none when it has no qdisc for them.
    ///
    /// # Errors
    /// See [`NetlinkError`].
    pub async fn egress_filters(&self, link: &Link) -> Result<Vec<PresentFilter>, NetlinkError> {
        self.filters(link, TcHandle::MIN_EGRESS).await
    }

    async fn filters(&self, link: &Link, hook: u16) -> Result<Vec<PresentFilter>, NetlinkError> {
        let index = index(link);
        let doing = || format!("list the filters of \"{}\"", link.name);
        let ask = || {
            let filters = self.handle.traffic_filter(index).get();
            match hook {
                TcHandle::MIN_INGRESS => filters.ingress().execute(),
                _ => filters.egress().execute(),
            }
        };
        let all: Result<Vec<TcMessage>, _> = self.dump(ask).await;
        match all.map_err(|error| failed(doing(), error)) {
            Ok(all) => Ok(all.iter().filter_map(present).collect()),
            // EOPNOTSUPP is a kernel without any filters.
            Err(error)
                if matches!(
                    error.errno(),
                    Some(libc::EINVAL | libc::ENOENT | libc::EOPNOTSUPP)
                ) =>
            {
                Ok(Vec::new())
            }
            Err(error) => Err(error),
        }
    }

    /// Adds a filter at a device's ingress.
    ///
    /// # Errors
    /// [`NetlinkError::is_exists`] or `EINVAL` when its priority is taken by another.
    pub async fn add_filter(&self, link: &Link, filter: &Filter) -> Result<(), NetlinkError> {
        let doing = || format!("add a filter to the ingress of \"{}\"", link.name);
        let mut message = place(link, filter.priority, filter.ethertype);
        message.attributes = vec![
            TcAttribute::Kind(TcFilterU32::KIND.to_owned()),
            TcAttribute::Options(options(filter)),
        ];
        let message = RouteNetlinkMessage::NewTrafficFilter(message);
        self.tc_request(message, NEW, doing).await
    }

    /// Deletes all filters with this priority and ethertype at a device's ingress.
    ///
    /// # Errors
    /// [`NetlinkError::is_not_found`] when there is none.
    pub async fn delete_filters(
        &self,
        link: &Link,
        (priority, ethertype): (u16, u16),
    ) -> Result<(), NetlinkError> {
        let doing = || format!("delete a filter at the ingress of \"{}\"", link.name);
        let message = place(link, priority, ethertype);
        let message = RouteNetlinkMessage::DelTrafficFilter(message);
        self.tc_request(message, 0, doing).await
    }

    async fn tc_request(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
        doing: impl Fn() -> String,
    ) -> Result<(), NetlinkError> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        let answers = self.handle.clone().request(request);
        let mut answers = answers.map_err(|error| failed(doing(), error))?;
        while let Some(answer) = answers.next().await {
            if let NetlinkPayload::Error(error) = answer.payload
                && error.code.is_some()
            {
                return Err(NetlinkError::Refused {
                    doing: doing(),
                    source: error.to_io(),
                });
            }
        }
        Ok(())
    }
}

fn index(link: &Link) -> i32 {
    i32::try_from(link.index).unwrap_or(i32::MAX)
}

fn clsact(link: &Link) -> TcMessage {
    let mut message = TcMessage::with_index(index(link));
    message.header.parent = TcHandle::CLSACT;
    message.header.handle = TcHandle {
        major: u16::MAX,
        minor: 0,
    };
    message.attributes = vec![TcAttribute::Kind(CLSACT.to_owned())];
    message
}

/// A message about what has this priority at a device's ingress.
fn place(link: &Link, priority: u16, ethertype: u16) -> TcMessage {
    let mut message = TcMessage::with_index(index(link));
    message.header.parent = TcHandle {
        major: u16::MAX,
        minor: TcHandle::MIN_INGRESS,
    };
    message.header.info = u32::from(priority) << 16 | u32::from(ethertype.to_be());
    message
}

fn options(filter: &Filter) -> Vec<TcOption> {
    let everything = Word {
        at: 0,
        mask: 0,
        value: 0,
    };
    let words = match filter.words.is_empty() {
        true => &[everything][..],
        false => &filter.words,
    };
    let mut selector = TcU32Selector::default();
    selector.flags = TcU32SelectorFlags::Terminal;
    selector.keys = words.iter().map(key).collect();
    selector.nkeys = u8::try_from(selector.keys.len()).unwrap_or(u8::MAX);
    let mut mirror = TcMirror::default();
    (mirror.eaction, mirror.generic.action) = match filter.hand {
        Hand::Over => (TcMirrorActionType::EgressRedir, TcActionType::Stolen),
        Hand::Copy => (TcMirrorActionType::EgressMirror, TcActionType::Unspec),
    };
    mirror.ifindex = filter.target;
    let mut action = TcAction::default();
    action.attributes = vec![
        TcActionAttribute::Kind(TcActionMirror::KIND.to_owned()),
        TcActionAttribute::Options(vec![TcActionOption::Mirror(TcActionMirrorOption::Parms(
            mirror,
        ))]),
    ];
    vec![
        TcOption::U32(TcFilterU32Option::Selector(selector)),
        TcOption::U32(TcFilterU32Option::Action(vec![action])),
    ]
}

fn key(word: &Word) -> TcU32Key {
    let mut key = TcU32Key::default();
    key.mask = word.mask;
    key.val = word.value & word.mask;
    key.off = i32::from(word.at);
    key
}

fn kind(message: &TcMessage) -> Option<&str> {
    message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            TcAttribute::Kind(kind) => Some(kind.as_str()),
            _ => None,
        })
}

/// What a message tells of; `None` for the root of a hash table, which matches nothing.
fn present(message: &TcMessage) -> Option<PresentFilter> {
    let info = message.header.info.to_be_bytes();
    let [p0, p1, e0, e1] = info;
    let priority = u16::from_be_bytes([p0, p1]);
    let ethertype = u16::from_be(u16::from_be_bytes([e0, e1]));
    let kind = kind(message)?.to_owned();
    let options = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            TcAttribute::Options(options) => Some(options),
            _ => None,
        })?;
    let (mut words, mut action) = (None, None);
    for option in options {
        match option {
            TcOption::U32(TcFilterU32Option::Selector(selector)) => words = words_of(selector),
            TcOption::U32(TcFilterU32Option::Action(actions)) => action = action_of(actions),
            TcOption::U32(TcFilterU32Option::Divisor(_)) => return None,
            _ => {}
        }
    }
    let filter = words.zip(action).map(|(words, (hand, target))| Filter {
        priority,
        ethertype,
        words,
        hand,
        target,
    });
    Some(PresentFilter {
        priority,
        ethertype,
        kind,
        filter,
    })
}

fn words_of(selector: &TcU32Selector) -> Option<Vec<Word>> {
    let words = selector.keys.iter().map(|key| {
        Some(Word {
            at: u8::try_from(key.off).ok().filter(|_| key.offmask == 0)?,
            mask: key.mask,
            value: key.val,
        })
    });
    let mut words: Vec<Word> = words.collect::<Option<_>>()?;
    words.retain(|word| word.mask != 0);
    Some(words)
}

fn action_of(actions: &[TcAction]) -> Option<(Hand, u32)> {
    let [action] = actions else { return None };
    let options = action
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            TcActionAttribute::Options(options) => Some(options),
            _ => None,
        })?;
    options.iter().find_map(|option| {
        let TcActionOption::Mirror(TcActionMirrorOption::Parms(mirror)) = option else {
            return None;
        };
        let hand = match (mirror.eaction, &mirror.generic.action) {
            (TcMirrorActionType::EgressRedir, TcActionType::Stolen) => Hand::Over,
            (TcMirrorActionType::EgressMirror, TcActionType::Unspec) => Hand::Copy,
            _ => return None,
        };
        Some((hand, mirror.ifindex))
    })
}
