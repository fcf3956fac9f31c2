// Activates the extension in a pretended editor: prints what it started, said and did. Arguments: the setting
// `compile-plan.command` as JSON, whether the folder is trusted, the folder, and why starting fails, if it does.
"use strict";

const Module = require("module");
const [, , setting, trusted, folder, failure] = process.argv;
const seen = { started: [], selector: null, stopped: 0, said: [], commands: [] };
const listeners = {};

const pretended = {
  vscode: {
    commands: {
      registerCommand: (name, run) => {
        seen.commands.push(name);
        listeners[name] = run;
        return {};
      },
    },
    window: { showErrorMessage: (message) => seen.said.push(message) },
    workspace: {
      isTrusted: trusted === "true",
      workspaceFolders: folder ? [{ uri: { fsPath: folder } }] : undefined,
      getConfiguration: () => ({ get: () => JSON.parse(setting) }),
      onDidChangeConfiguration: (run) => ((listeners.changed = run), {}),
      onDidGrantWorkspaceTrust: (run) => ((listeners.trusted = run), {}),
    },
  },
  "vscode-languageclient/node": {
    LanguageClient: class {
      constructor(_id, _name, server, options) {
        Object.assign(this, { server });
        seen.selector = options.documentSelector;
      }
      async start() {
        if (failure) throw new Error(failure);
        seen.started.push([this.server.command, ...this.server.args]);
      }
      async stop() {
        seen.stopped += 1;
      }
    },
  },
};
const load = Module._load;
Module._load = (name, ...rest) => pretended[name] ?? load(name, ...rest);

(async () => {
  const extension = require("../../editors/vscode/extension.js");
  await extension.activate({ subscriptions: [] });
  await listeners.changed({ affectsConfiguration: (name) => name === "another.setting" });
  await listeners["compile-plan.restart"]();
  await extension.deactivate();
  console.log(JSON.stringify(seen));
})();
