// Starts `compile-plan --lsp` and hands it every .plan file; everything else is the server's.
"use strict";

const { existsSync } = require("fs");
const path = require("path");
const { commands, window, workspace } = require("vscode");
const { LanguageClient } = require("vscode-languageclient/node");

let client;

// The setting wins, then a virtual environment of a folder that is trusted, then the PATH.
function command() {
  const written = workspace.getConfiguration("compile-plan").get("command", []);
  if (written.length) return written;
  const folders = workspace.isTrusted ? workspace.workspaceFolders ?? [] : [];
  const inside = process.platform === "win32" ? ["Scripts", "compile-plan.exe"] : ["bin", "compile-plan"];
  const found = folders
    .flatMap(({ uri }) => [".venv", "venv"].map((name) => path.join(uri.fsPath, name, ...inside)))
    .find((file) => existsSync(file));
  return [found ?? "compile-plan"];
}

async function start() {
  const [first, ...args] = command();
  client = new LanguageClient(
    "compile-plan",
    "compile-plan",
    { command: first, args: [...args, "--lsp"] },
    { documentSelector: [{ scheme: "file", language: "plan" }] }
  );
  try {
    await client.start();
  } catch (error) {
    client = undefined;
    const install = "pip install 'compile-plan[lsp]'";
    window.showErrorMessage(`compile-plan: ${error.message}. Is it installed? ${install}`);
  }
}

async function stop() {
  const running = client;
  client = undefined;
  await running?.stop();
}

async function restart() {
  await stop();
  await start();
}

async function activate(context) {
  context.subscriptions.push(
    commands.registerCommand("compile-plan.restart", restart),
    workspace.onDidChangeConfiguration((change) =>
      change.affectsConfiguration("compile-plan.command") ? restart() : undefined
    ),
    workspace.onDidGrantWorkspaceTrust(restart)
  );
  await start();
}

module.exports = { activate, deactivate: stop };
