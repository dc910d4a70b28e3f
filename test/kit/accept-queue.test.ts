import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { connect } from 'node:net'
import t from 'tap'
import { acceptQueueAt } from '../../src/core/kit/accept-queue.ts'
import '../support/no-orphans.ts'
import { heard } from '../support/heard.ts'
import { until } from '../support/until.ts'

const LISTENER = `
  const [host] = process.argv.slice(1)
  const server = require('node:net').createServer((socket) => socket.on('error', () => {}))
  server.listen(0, host, () => process.stdout.write(String(server.address().port)))`

t.test('what a program has not accepted is counted, wherever it listens', async (t) => {
  for (const [listens, called] of [
    ['127.0.0.1', '127.0.0.1'],
    ['0.0.0.0', '127.0.0.1'],
    ['::', '127.0.0.1'],
    ['::', '::1'],
    ['::1', '::1'],
  ] as const) {
    const program = spawn(process.execPath, ['-e', LISTENER, listens], { stdio: ['ignore', 'pipe', 'inherit'] })
    const ended = once(program, 'exit')
    try {
      const text = await heard(program.stdout)
      const at = { host: called, port: Number(text.toString()) }
      // the table lists whatever else listens on this machine: behind too many others nothing is found for a while
      await until(() => acceptQueueAt(at) === 0)
      t.pass(`${called} of ${listens}: nothing waits`)
      program.kill('SIGSTOP')
      const sockets = Array.from({ length: 20 }, () => connect(at).on('error', () => undefined))
      await Promise.all(sockets.map((socket) => once(socket, 'connect')))
      await until(() => acceptQueueAt(at) === 20)
      t.pass(`${called} of ${listens}: twenty wait while the program stands still`)
      program.kill('SIGCONT')
      await until(() => acceptQueueAt(at) === 0)
      for (const socket of sockets) socket.destroy()
    } finally {
      program.kill('SIGKILL')
      await ended
    }
  }
})

t.test('where nobody listens there is no queue', async (t) => {
  t.equal(acceptQueueAt({ host: '127.0.0.1', port: 1 }), undefined, 'no listener on port 1')
  t.equal(acceptQueueAt({ host: '192.0.2.1', port: 80 }), undefined, 'another machine’s')
})
