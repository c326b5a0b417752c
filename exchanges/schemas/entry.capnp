# One journal entry on the wire. Fields are only ever added (at the next ordinal); the fast codec in
# journal/codec.py pins this layout and tests/journal/test_codec.py checks it against pycapnp.
@0xb6c5a4f3e2d1c0a7;

struct Entry {
  recvNs @0 :Int64;          # wall clock at the socket read, ns since 1970 UTC
  monoNs @1 :Int64;          # monotonic clock at the same instant, ns; comparable within one process only
  effectiveNs @2 :Int64;     # max(previous effective time of this writer, recvNs)
  venueNs @3 :Int64;         # the venue's own time, 0: the frame had none
  frame @4 :UInt64;          # number of the frame (or own decision) within its epoch, from 0
  venueSeq @5 :UInt64;       # the venue's sequence number, 0: none
  epochHi @6 :UInt64;        # connection epoch, 128 bits; of imports the head of the file's SHA-256
  epochLo @7 :UInt64;
  subscription @8 :UInt32;   # the venue's subscription id (sid), 0: none
  day @9 :UInt32;            # trading day as yyyymmdd, decided once, at append
  part @10 :UInt16;
  parts @11 :UInt16;
  priceExponent @12 :Int8;   # price = integer * 10^priceExponent
  sizeExponent @13 :Int8;
  feed @14 :Text;
  symbol @15 :Text;          # the venue's own market identifier, "" where there is none
  raw @16 :Data;             # the frame's bytes, untouched; in part 0 only
  rawHash @17 :Data;         # BLAKE2b-256 of the frame; in parts above 0 only
  body :union {
    trade @18 :Trade;
    book @19 :Book;
    delta @20 :Delta;
    ticker @21 :Ticker;
    lifecycle @22 :Lifecycle;
    gap @23 :Gap;
    control @24 :Control;
    unparsed @25 :Unparsed;
    event @26 :Event;
  }
}

struct Change {              # data only: 24 bytes, viewed in place as NumPy structured arrays
  price @0 :Int64;
  size @1 :Int64;
  side @2 :UInt8;            # 0 bid, 1 ask
  op @3 :UInt8;              # 0 add (size is a signed change), 1 set (size is the new total; 0 removes)
}

struct Trade {
  price @0 :Int64;
  size @1 :Int64;
  aggressor @2 :UInt8;       # 0 unknown, 1 buy, 2 sell
  block @3 :UInt8;           # 0 no, 1 yes, 2 the venue did not say
  tradeId @4 :Text;
}

struct Book {                # a snapshot: replaces, never merges
  levels @0 :List(Change);
}

struct Delta {
  changes @0 :List(Change);
}

struct Ticker {              # present: bit n set means field @n was sent
  last @0 :Int64;
  bid @1 :Int64;
  ask @2 :Int64;
  bidSize @3 :Int64;
  askSize @4 :Int64;
  lastSize @5 :Int64;
  volume @6 :Int64;
  openInterest @7 :Int64;
  dollarVolume @8 :Int64;
  dollarOpenInterest @9 :Int64;
  present @10 :UInt32;
}

struct Lifecycle {           # *Ns: 0 where not sent
  openNs @0 :Int64;
  closeNs @1 :Int64;
  determinedNs @2 :Int64;
  settledNs @3 :Int64;
  settlementValue @4 :Int64; # price units; valid when hasSettlementValue is 1
  hasSettlementValue @5 :UInt8;
  event @6 :Text;            # the venue's event type
  status @7 :Text;           # pending, active, paused, closed, determined, settled, "" when unchanged
  result @8 :Text;
  detail @9 :Text;           # canonical JSON of what else was sent
}

struct Gap {
  firstMissing @0 :UInt64;   # venue sequence numbers; 0 where unknown
  lastMissing @1 :UInt64;
  fromNs @2 :Int64;          # last good receive time before, first after
  toNs @3 :Int64;
  reason @4 :Text;
  channel @5 :Text;          # "" for every channel of the connection
  healedBy @6 :Text;
  detail @7 :Text;
}

struct Control {             # our own decisions and the venue's acknowledgements
  action @0 :Text;
  channel @1 :Text;
  detail @2 :Text;           # canonical JSON
}

struct Unparsed {
  error @0 :Text;
}

struct Event {               # domain events: digests, checkpoints, day transitions
  type @0 :Text;
  who @1 :Text;
  why @2 :Text;
  causation @3 :Text;
  correlation @4 :Text;
  data @5 :Data;             # canonical JSON
}
