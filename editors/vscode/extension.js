// Starts `compile-plan --lsp` and hands it every .plan file; everything else is the server's.
"use strict";

const { commands, window, workspace } = require("vscode");
const { LanguageClient } = require("vscode-languageclient/node");

let client;

async function start() {
  const [command, ...args] = workspace.getConfiguration("compile-plan").get("command");
  client = new LanguageClient(
    "compile-plan",
    "compile-plan",
    { command, args: [...args, "--lsp"] },
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

async function activate(context) {
  const restart = async () => {
    await stop();
    await start();
  };
  context.subscriptions.push(commands.registerCommand("compile-plan.restart", restart));
  await start();
}

module.exports = { activate, deactivate: stop };
