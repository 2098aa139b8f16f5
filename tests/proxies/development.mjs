// What development servers have in front of an API: a proxy that compresses by its default filter, between the two
// addresses of its arguments. Its packages are in the folder that it is started in.
import { createRequire } from "node:module";
import { join } from "node:path";

const require = createRequire(join(process.cwd(), "package.json"));
const compression = require("compression");
const express = require("express");
const { createProxyMiddleware } = require("http-proxy-middleware");

const [own, target] = process.argv.slice(2);
const [host, port] = own.split(":");
express()
  .use(compression())
  .use(createProxyMiddleware({ target: `http://${target}` }))
  .listen(Number(port), host);
