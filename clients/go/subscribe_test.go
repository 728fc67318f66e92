package parchgrad

import (
	"context"
	"errors"
	"net"
	"os"
	"testing"
	"time"

	"github.com/go-zeromq/zmq4"
)

func publisher(t *testing.T, address string) zmq4.Socket {
	t.Helper()
	socket := zmq4.NewPub(context.Background())
	if err := socket.Listen(address); err != nil {
		t.Fatal(err)
	}
	return socket
}

// publish repeats the messages until the test is over: a PUB drops what comes before the subscription.
func publish(ctx context.Context, socket zmq4.Socket, messages ...zmq4.Msg) {
	for ctx.Err() == nil {
		for _, message := range messages {
			socket.SendMulti(message)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func TestSubscribe(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	good := parts(t, "saliency_u8.bin")
	results := zmq4.NewMsgFrom([]byte("cam1"), good[1], good[2])
	for _, address := range []string{"tcp://127.0.0.1:0", "ipc://" + t.TempDir() + "/out"} {
		socket := publisher(t, address)
		if address[:3] == "tcp" {
			address = "tcp://" + socket.Addr().String()
		}
		sub, err := Subscribe(ctx, address, "cam1")
		if err != nil {
			t.Fatal(err)
		}
		sending, stop := context.WithCancel(ctx)
		go publish(sending, socket, zmq4.NewMsgFrom([]byte("cam10"), good[1], good[2]),
			zmq4.NewMsgFrom([]byte("cam1"), []byte{0xc1}, good[2]), results)
		for n := 0; n < 3; n++ {
			s, err := sub.Next()
			if err != nil {
				t.Fatal(err)
			}
			equal(t, "stream", s.Stream, "cam1")
		}
		equal(t, "malformed counted", sub.Malformed() >= 2, true)
		stop()
		sub.Close()
		if _, err := sub.Next(); !errors.Is(err, context.Canceled) {
			t.Errorf("after Close: %v", err)
		}
		socket.Close()
	}
}

// A subscriber may start first, and outlives a restart of the daemon.
func TestReconnect(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := "tcp://" + listener.Addr().String()
	listener.Close()
	sub, err := Subscribe(ctx, address)
	if err != nil {
		t.Fatal(err)
	}
	good := zmq4.NewMsgFrom(parts(t, "saliency_u8.bin")...)
	for run := 0; run < 2; run++ {
		sending, stop := context.WithCancel(ctx)
		go func() {
			time.Sleep(300 * time.Millisecond)
			socket := zmq4.NewPub(sending)
			for socket.Listen(address) != nil && sending.Err() == nil {
				time.Sleep(50 * time.Millisecond)
			}
			publish(sending, socket, good)
			socket.Close()
		}()
		if _, err := sub.Next(); err != nil {
			t.Fatalf("run %d: %v", run, err)
		}
		stop()
	}
}

func TestBadEndpoints(t *testing.T) {
	for _, endpoint := range []string{"", "udp://127.0.0.1:1", "127.0.0.1:5556"} {
		if _, err := Subscribe(context.Background(), endpoint); err == nil {
			t.Errorf("%q was taken", endpoint)
		}
	}
	if _, err := Subscribe(context.Background(), "tcp://127.0.0.1:1", "_x"); err == nil {
		t.Error("a reserved stream was taken")
	}
}

func TestBounds(t *testing.T) {
	for name, test := range map[string]struct {
		stream []byte
		bad    bool
	}{
		"small frames":    {[]byte{1, 1, 'a', 0, 2, 'b', 'c', 0, 0}, false},
		"long frame":      {[]byte{2, 0, 0, 0, 0, 0, 0, 0, 1, 'a', 0, 1, 'b'}, false},
		"huge frame":      {[]byte{2, 0, 0, 0, 0, 4, 0, 0, 1}, true},
		"huge length":     {[]byte{2, 255, 255, 255, 255, 255, 255, 255, 255}, true},
		"negative length": {[]byte{1, 0, 2, 127, 255, 255, 255, 255, 255, 255, 255}, true},
	} {
		for _, chunk := range []int{1, 3, 100} {
			b := bounds{}
			var err error
			for at := 0; at < len(test.stream) && err == nil; at += chunk {
				end := at + chunk
				if end > len(test.stream) {
					end = len(test.stream)
				}
				err = b.follow(test.stream[at:end])
			}
			equal(t, name, err != nil, test.bad)
		}
	}
	endless := bounds{}
	var err error
	for n := 0; n < 2*maxParts && err == nil; n++ {
		err = endless.follow([]byte{1, 0})
	}
	equal(t, "a message without end", err != nil, true)
}

// A peer that announces 2^62 bytes costs a connection, not the process.
func TestHostilePeer(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	served := make(chan struct{}, 16)
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			hello := make([]byte, 64)
			copy(hello, "\xff\x00\x00\x00\x00\x00\x00\x00\x01\x7f\x03\x00NULL")
			conn.Write(hello)
			conn.Write([]byte("\x04\x19\x05READY\x0bSocket-Type\x00\x00\x00\x03PUB"))
			conn.Write([]byte{2, 64, 0, 0, 0, 0, 0, 0, 0})
			select {
			case served <- struct{}{}:
			default:
			}
			time.Sleep(50 * time.Millisecond)
			conn.Close()
		}
	}()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	sub, _ := Subscribe(ctx, "tcp://"+listener.Addr().String())
	if _, err := sub.Next(); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	equal(t, "connected", len(served) > 0, true)
}

// Against a running daemon: PARCHGRADD_ENDPOINT is its publish endpoint, and frames are flowing.
func TestRealDaemon(t *testing.T) {
	endpoint := os.Getenv("PARCHGRADD_ENDPOINT")
	if endpoint == "" {
		t.Skip("PARCHGRADD_ENDPOINT is not set: no running parchgradd to read from")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	sub, err := Subscribe(ctx, endpoint)
	if err != nil {
		t.Fatal(err)
	}
	sub.OnMalformed = func(err error) { t.Error(err) }
	type producer struct {
		stream string
		boot   [16]byte
	}
	last := map[producer]uint64{}
	for n := 0; n < 5; n++ {
		s, err := sub.Next()
		if err != nil {
			t.Fatalf("result %d: %v", n, err)
		}
		from := producer{s.Stream, s.Boot}
		if seq, seen := last[from]; seen && s.Seq <= seq {
			t.Errorf("%s: seq %d after %d", s.Stream, s.Seq, seq)
		}
		last[from] = s.Seq
		if s.Top[0].Probability <= 0 || s.Top[0].Probability > 1 || len(s.Map) != s.Width*s.Height {
			t.Errorf("odd result: %+v, map of %d", s.Top[0], len(s.Map))
		}
		t.Logf("%s seq %d: %v, %d x %d, age %v", s.Stream, s.Seq, s.Explained, s.Width, s.Height, s.Age)
	}
}
