// Tail prints a line per result of a parchgradd.
//
//	go run ./cmd/tail tcp://127.0.0.1:5556 [stream ...]
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	parchgrad "parchgradd/clients/go"
)

func main() {
	count := flag.Int("n", 0, "stop after so many results (0: never)")
	digest := flag.Bool("digest", false, "print stream, seq and the message's SHA-256 only")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: tail [-n COUNT] [-digest] ENDPOINT [STREAM ...]")
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() < 1 {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := tail(ctx, *count, *digest, flag.Arg(0), flag.Args()[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func tail(ctx context.Context, count int, digest bool, endpoint string, streams []string) error {
	results, err := parchgrad.Subscribe(ctx, endpoint, streams...)
	if err != nil {
		return err
	}
	defer results.Close()
	results.OnMalformed = func(err error) { fmt.Fprintln(os.Stderr, "skipped:", err) }
	for n := 0; count == 0 || n < count; n++ {
		s, err := results.Next()
		if errors.Is(err, context.Canceled) {
			return nil
		}
		if err != nil {
			return err
		}
		if digest {
			fmt.Println(s.Stream, s.Seq, s.Digest())
			continue
		}
		x, y, peak := peak(s)
		fmt.Printf("%s seq %d  class %d %q %.2f  peak %.3g at frame (%.0f, %.0f)  %v\n", s.Stream,
			s.Seq, s.Explained.Class, s.Explained.Name, s.Top[0].Probability, peak, x, y,
			s.Age.Round(time.Millisecond))
	}
	return nil
}

// peak is the hottest position of the map, in frame pixels.
func peak(s *parchgrad.Saliency) (x, y float64, value float32) {
	best := 0
	for i, v := range s.Map {
		if v > s.Map[best] {
			best = i
		}
	}
	x, y = s.FramePixel(float64(best%s.Width), float64(best/s.Width))
	return x, y, s.Map[best]
}
