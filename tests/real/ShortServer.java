// SPDX-License-Identifier: Apache-2.0
// An HTTP server on ServerSocketChannel and a Selector: GET /N answers with N bytes of known content, POST /sum with the SHA-256 of
// what was sent.

import java.io.ByteArrayOutputStream;
import java.net.InetSocketAddress;
import java.nio.ByteBuffer;
import java.nio.channels.SelectionKey;
import java.nio.channels.Selector;
import java.nio.channels.ServerSocketChannel;
import java.nio.channels.SocketChannel;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.util.HexFormat;

public class ShortServer {
    static final byte[] BLOCK = new byte[65536];

    static class Peer {
        final ByteArrayOutputStream in = new ByteArrayOutputStream();
        ByteBuffer out = ByteBuffer.allocate(0);
    }

    public static void main(String[] args) throws Exception {
        for (int at = 0; at < BLOCK.length; at++) {
            BLOCK[at] = (byte) (at ^ (at >> 8) * 31);
        }
        String[] parts = args[0].split(":");
        Selector selector = Selector.open();
        ServerSocketChannel listener = ServerSocketChannel.open();
        listener.bind(new InetSocketAddress(parts[0], Integer.parseInt(parts[1])));
        listener.configureBlocking(false);
        listener.register(selector, SelectionKey.OP_ACCEPT);
        System.out.println("listening on " + args[0]);
        while (true) {
            selector.select();
            for (SelectionKey key : selector.selectedKeys()) {
                if (key.isAcceptable()) {
                    SocketChannel channel = listener.accept();
                    channel.configureBlocking(false);
                    channel.register(selector, SelectionKey.OP_READ, new Peer());
                } else {
                    serve(key);
                }
            }
            selector.selectedKeys().clear();
        }
    }

    static void serve(SelectionKey key) throws Exception {
        SocketChannel channel = (SocketChannel) key.channel();
        Peer peer = (Peer) key.attachment();
        if (key.isReadable()) {
            ByteBuffer buffer = ByteBuffer.allocateDirect(65536);
            int count = channel.read(buffer);
            if (count < 0) {
                channel.close();
                return;
            }
            byte[] bytes = new byte[buffer.flip().remaining()];
            buffer.get(bytes);
            peer.in.write(bytes);
        }
        if (!peer.out.hasRemaining()) {
            answer(peer);
        }
        channel.write(peer.out);
        key.interestOps(peer.out.hasRemaining() ? SelectionKey.OP_WRITE : SelectionKey.OP_READ);
    }

    static void answer(Peer peer) throws Exception {
        String text = peer.in.toString(StandardCharsets.ISO_8859_1);
        int end = text.indexOf("\r\n\r\n");
        if (end < 0) {
            return;
        }
        String[] lines = text.substring(0, end).split("\r\n");
        String[] first = lines[0].split(" ");
        byte[] body;
        int used = end + 4;
        if (first[0].equals("POST")) {
            int length = 0;
            for (String line : lines) {
                if (line.toLowerCase().startsWith("content-length:")) {
                    length = Integer.parseInt(line.substring(15).trim());
                }
            }
            if (text.length() < used + length) {
                return;
            }
            MessageDigest sum = MessageDigest.getInstance("SHA-256");
            sum.update(peer.in.toByteArray(), used, length);
            body = HexFormat.of().formatHex(sum.digest()).getBytes(StandardCharsets.US_ASCII);
            used += length;
        } else {
            body = new byte[Integer.parseInt(first[1].substring(1))];
            for (int at = 0; at < body.length; at += BLOCK.length) {
                System.arraycopy(BLOCK, 0, body, at, Math.min(BLOCK.length, body.length - at));
            }
        }
        byte[] rest = peer.in.toByteArray();
        peer.in.reset();
        peer.in.write(rest, used, rest.length - used);
        byte[] head = ("HTTP/1.1 200 OK\r\nContent-Length: " + body.length + "\r\n\r\n").getBytes(StandardCharsets.US_ASCII);
        peer.out = ByteBuffer.allocateDirect(head.length + body.length).put(head).put(body).flip();
    }
}
