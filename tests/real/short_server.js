// SPDX-License-Identifier: Apache-2.0
// An HTTP server on Node.js: GET /N answers with N bytes of known content, POST /sum with the SHA-256 of what was sent.
const http = require("node:http");
const crypto = require("node:crypto");

const block = Buffer.from(Array.from({ length: 65536 }, (_, at) => (at ^ ((at >> 8) * 31)) & 255));
const [host, port] = process.argv[2].split(":");

const server = http.createServer((request, response) => {
  if (request.method === "POST") {
    const sum = crypto.createHash("sha256");
    request.on("data", (part) => sum.update(part));
    request.on("end", () => {
      const answer = sum.digest("hex");
      response.writeHead(200, { "Content-Length": answer.length });
      response.end(answer);
    });
    return;
  }
  let left = Number(request.url.slice(1));
  response.writeHead(200, { "Content-Length": left });
  const more = () => {
    while (left > 0) {
      const part = block.subarray(0, Math.min(left, block.length));
      left -= part.length;
      if (!response.write(part)) {
        response.once("drain", more);
        return;
      }
    }
    response.end();
  };
  more();
});
server.listen(Number(port), host, () => console.log(`listening on ${process.argv[2]}`));
