// An echo service in Go, in both protocols of docs/plugins.md: echo-service [-protocol old].
package main

import (
	"flag"
	"fmt"
	"log"
	"net"
	"os"
	"path/filepath"

	"github.com/fxamacker/cbor/v2"
)

// Message is a request, and its response: all fields are to be echoed.
type Message struct {
	RequestAt *int64
	Delay     int64
	ID        uint64
	Payload   []byte
	SURB      []byte
}

type oldRequest struct {
	ID      uint64
	Payload []byte
	HasSURB bool
}

type oldResponse struct {
	Payload []byte
}

func main() {
	protocol := flag.String("protocol", "new", "old: answer every request, in order, with the payload alone")
	flag.Parse()
	folder, err := os.MkdirTemp("", "echo-go-")
	check(err)
	path := filepath.Join(folder, "socket")
	listener, err := net.Listen("unix", path)
	check(err)
	fmt.Println(path) // the one line that the node reads, once the socket is there
	connection, err := listener.Accept()
	check(err)
	check(os.RemoveAll(folder))
	if *protocol == "old" {
		serve(connection, func(request oldRequest) any {
			if !request.HasSURB {
				return oldResponse{}
			}
			return oldResponse{Payload: request.Payload}
		})
	}
	serve(connection, func(request Message) any {
		if request.SURB == nil {
			return nil
		}
		return request
	})
}

// serve answers each request, until the node hangs up.
func serve[Q any](connection net.Conn, answer func(Q) any) {
	decoder, encoder := cbor.NewDecoder(connection), cbor.NewEncoder(connection)
	for {
		var request Q
		check(decoder.Decode(&request))
		if response := answer(request); response != nil {
			check(encoder.Encode(response))
		}
	}
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
