package parchgrad

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log"
	"net"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-zeromq/zmq4"
	"github.com/go-zeromq/zmq4/transport"
)

// Subscriber receives results. It connects again by itself when the daemon restarts.
// Next belongs to one goroutine; Close and Malformed may be called from any.
type Subscriber struct {
	// OnMalformed, if set, is told why a message was skipped.
	OnMalformed func(error)

	ctx       context.Context
	cancel    context.CancelFunc
	endpoint  string
	topics    map[string]bool // nil: all
	socket    zmq4.Socket
	malformed atomic.Uint64
}

// Subscribe connects to a daemon's publish endpoint (tcp:// or ipc://). No stream: all streams.
// It returns at once, also where no daemon listens yet.
func Subscribe(ctx context.Context, endpoint string, streams ...string) (*Subscriber, error) {
	kind, _, _ := strings.Cut(endpoint, "://")
	if kind != "tcp" && kind != "ipc" {
		return nil, fmt.Errorf("parchgrad: endpoint %q is neither tcp:// nor ipc://", endpoint)
	}
	s := &Subscriber{endpoint: "parchgrad+" + endpoint}
	for _, stream := range streams {
		if err := CheckStream(stream); err != nil {
			return nil, err
		}
		if s.topics == nil {
			s.topics = make(map[string]bool)
		}
		s.topics[stream] = true
	}
	s.ctx, s.cancel = context.WithCancel(ctx)
	return s, nil
}

// Malformed counts the messages that were skipped because they are no results.
func (s *Subscriber) Malformed() uint64 { return s.malformed.Load() }

// Close ends a waiting Next.
func (s *Subscriber) Close() { s.cancel() }

// Next waits for the next result. The error is the context's.
func (s *Subscriber) Next() (*Saliency, error) {
	for {
		message, err := s.receive()
		if err != nil {
			return nil, err
		}
		// SUB matches prefixes: "cam1" also gets "cam10". A message without parts cannot be.
		if message.Type == zmq4.CmdMsg || len(message.Frames) == 0 || !s.wanted(message.Frames[0]) {
			continue
		}
		result, err := Decode(message.Frames)
		if err == nil {
			return result, nil
		}
		s.malformed.Add(1)
		if s.OnMalformed != nil {
			s.OnMalformed(err)
		}
	}
}

func (s *Subscriber) wanted(topic []byte) bool {
	if s.topics != nil {
		return s.topics[string(topic)]
	}
	name := string(topic)
	return !strings.HasPrefix(name, "_") && !strings.HasPrefix(name, "alert.") && name != "status"
}

// receive connects where needed. Only the end of the context ends it.
func (s *Subscriber) receive() (zmq4.Msg, error) {
	for {
		if s.ctx.Err() != nil {
			s.drop()
			return zmq4.Msg{}, s.ctx.Err()
		}
		if s.socket != nil || s.connect() == nil {
			message, err := s.socket.Recv()
			if err == nil {
				return message, nil
			}
			s.drop()
		}
		select {
		case <-s.ctx.Done():
		case <-time.After(250 * time.Millisecond):
		}
	}
}

func (s *Subscriber) drop() {
	if s.socket != nil {
		s.socket.Close()
		s.socket = nil
	}
}

func (s *Subscriber) connect() error {
	s.socket = zmq4.NewSub(s.ctx, zmq4.WithDialerMaxRetries(0), zmq4.WithLogger(quiet),
		zmq4.WithDialerTimeout(5*time.Second))
	topics := []string{""}
	if s.topics != nil {
		topics = topics[:0]
		for topic := range s.topics {
			topics = append(topics, topic)
		}
	}
	var err error
	for _, topic := range topics {
		if err == nil {
			err = s.socket.SetOption(zmq4.OptionSubscribe, topic)
		}
	}
	if err == nil {
		err = s.socket.Dial(s.endpoint)
	}
	if err != nil {
		s.drop()
	}
	return err
}

var quiet = log.New(io.Discard, "", 0)

// zmq4 reserves whatever length a peer announces. These transports sit below it, follow the frames
// of the ZMTP connection and end it before a part or a message becomes larger than it may be.

const (
	maxPart  = 64 << 20
	maxTotal = 2 * maxPart
	maxParts = 64
	greeting = 64
)

func init() {
	for name, network := range map[string]string{"tcp": "tcp", "ipc": "unix"} {
		bounded := boundedTransport{transport.New(network)}
		if err := zmq4.RegisterTransport("parchgrad+"+name, bounded); err != nil {
			panic(err)
		}
	}
}

type boundedTransport struct{ transport.Transport }

func (t boundedTransport) Dial(ctx context.Context, d transport.Dialer, addr string) (net.Conn, error) {
	conn, err := t.Transport.Dial(ctx, d, addr)
	if err != nil {
		return nil, err
	}
	// zmq4's handshake knows neither the context nor a time limit.
	context.AfterFunc(ctx, func() { conn.Close() })
	conn.SetReadDeadline(time.Now().Add(handshake))
	return &boundedConn{Conn: conn, bounds: bounds{body: greeting}}, nil
}

const handshake = 10 * time.Second

type boundedConn struct {
	net.Conn
	bounds  bounds
	settled bool // the handshake is over
}

func (c *boundedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if bad := c.bounds.follow(p[:n]); bad != nil {
		c.Conn.Close()
		return 0, bad
	}
	if !c.settled && c.bounds.frames > 0 && c.bounds.body == 0 {
		c.settled = true
		c.Conn.SetReadDeadline(time.Time{})
	}
	return n, err
}

// bounds follows a ZMTP 3 byte stream: 64 bytes of greeting, then frames of a flags byte, a length
// of one or eight bytes, and a body.
type bounds struct {
	body   uint64 // bytes left of the greeting or of a body
	head   [9]byte
	have   int    // bytes of head
	frames uint64 // heads seen
	parts  int    // of the message so far
	total  uint64 // bytes of the message so far
}

func (b *bounds) follow(p []byte) error {
	for len(p) > 0 {
		if b.body > 0 {
			n := uint64(len(p))
			if n > b.body {
				n = b.body
			}
			b.body -= n
			p = p[n:]
			continue
		}
		b.head[b.have] = p[0]
		b.have++
		p = p[1:]
		if b.have < 2 || (b.head[0]&2 != 0 && b.have < 9) {
			continue
		}
		if err := b.frame(); err != nil {
			return err
		}
	}
	return nil
}

// frame takes note of a complete frame head.
func (b *bounds) frame() error {
	size := uint64(b.head[1])
	if b.head[0]&2 != 0 {
		size = binary.BigEndian.Uint64(b.head[1:])
	}
	b.have = 0
	b.frames++
	b.parts++
	if size > maxPart || b.parts > maxParts || b.total+size > maxTotal {
		return errorf("the peer announced a message beyond %d parts, %d bytes a part or %d in all",
			maxParts, maxPart, maxTotal)
	}
	b.total += size
	b.body = size
	if b.head[0]&1 == 0 {
		b.parts, b.total = 0, 0
	}
	return nil
}
