import { execFileSync, spawn } from 'node:child_process'
import { closeSync, constants, mkdtempSync, openSync, readFileSync, readSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import t from 'tap'
import { BoundedOutput } from '../../src/core/kit/bounded-output.ts'
import { openLog } from '../../src/core/kit/log.ts'
import '../support/no-orphans.ts'
import { heard } from '../support/heard.ts'

/*
 * The log: its reader stands still, its disk is full, its reader is gone. No write may wait, and what was lost is counted.
 */

const dir = mkdtempSync(join(tmpdir(), 'hedgerow-log-'))
t.teardown(() => rmSync(dir, { recursive: true, force: true }))
const LINE = `${'x'.repeat(199)}\n`
const lostLine = (lines: number) => `${lines} lines lost\n`

/** A FIFO whose reader reads only when told, and a writer as a shell would open it for `2>fifo`. */
function fifo(name: string) {
  const path = join(dir, name)
  execFileSync('mkfifo', [path])
  const reader = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK)
  const writer = openSync(path, constants.O_WRONLY)
  const readAll = () => {
    const chunk = Buffer.alloc(1 << 20)
    let text = ''
    for (;;) {
      try {
        const bytes = readSync(reader, chunk)
        if (bytes === 0) return text
        text += chunk.toString('utf8', 0, bytes)
      } catch {
        return text // EAGAIN: nothing more now
      }
    }
  }
  return { path, reader, writer, readAll }
}

/** Reads again and again until the text has come. */
async function readUntil(read: () => string, end: string, limitMs = 60_000): Promise<string> {
  let text = ''
  for (const startedAt = Date.now(); Date.now() - startedAt < limitMs; ) {
    text += read()
    if (text.includes(end)) return text
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
  throw new Error(`"${end}" did not come within ${limitMs} ms`)
}

t.test('a reader that stands still: lines wait within the bound, then are dropped and counted', async (t) => {
  const { reader, writer, readAll } = fifo('stalled')
  const output = new BoundedOutput({ fd: writer, limitBytes: 100_000, lostLine })
  for (let i = 0; i < 5_000; i++) output.write(LINE) // a write that waited for the reader would wait for this loop
  t.ok(output.lost > 3_000, `${output.lost} lines lost`)
  const lost = output.lost
  const text = await readUntil(readAll, 'lines lost')
  t.match(text, `${lost} lines lost`, 'it is said once there is room')
  t.equal(text.split(LINE).length - 1 + lost, 5_000, 'every line was written or counted')
  output.write('and on\n')
  t.match(await readUntil(readAll, 'and on'), 'and on')
  closeSync(reader)
})

t.test('a lone line leaves at once, the next ones together', async (t) => {
  const { reader, writer, readAll } = fifo('gathered')
  const output = new BoundedOutput({ fd: writer, lostLine })
  output.write('one\n')
  t.equal(readAll(), 'one\n', 'nothing waits')
  output.write('two\n')
  output.write('three\n')
  t.equal(readAll(), '', 'gathered')
  t.equal(await readUntil(readAll, 'three\n'), 'two\nthree\n', 'and written')
  output.write('four\n')
  await output.flush(10_000)
  t.equal(readAll(), 'four\n', 'a flush does not wait for more')
  output.write(LINE.repeat(400))
  t.equal(readAll().length, 65_536, 'as much as a write takes does not wait either')
  closeSync(reader)
})

t.test('a reader that goes away and comes back: lines come again', async (t) => {
  const { path, reader, writer } = fifo('gone')
  const output = new BoundedOutput({ fd: writer, limitBytes: 10_000, lostLine })
  output.write('first\n')
  closeSync(reader)
  for (let i = 0; i < 100; i++) output.write(LINE)
  t.ok(output.lost > 0, 'lines are lost while nobody reads')
  const again = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK)
  const read = () => {
    const chunk = Buffer.alloc(65_536)
    try {
      return chunk.toString('utf8', 0, readSync(again, chunk))
    } catch {
      return ''
    }
  }
  t.match(await readUntil(read, 'lines lost'), LINE)
  closeSync(again)
})

t.test('a full disk: nothing is thrown, and lines are counted as lost', async (t) => {
  const output = new BoundedOutput({ fd: openSync('/dev/full', 'w'), limitBytes: 1_000, lostLine })
  for (let i = 0; i < 100; i++) output.write(LINE)
  await output.flush(50)
  t.ok(output.lost >= 90, `${output.lost} of 100 lines are lost: ten fit into the memory for them`)
})

t.test('a file: all lines are written, in order', async (t) => {
  const path = join(dir, 'file')
  const output = new BoundedOutput({ fd: openSync(path, 'a'), lostLine })
  const lines = Array.from({ length: 3_000 }, (_, i) => `line ${i}\n`)
  for (const line of lines) output.write(line)
  await output.flush(10_000)
  t.equal(readFileSync(path, 'utf8'), lines.join(''))
})

/** Writes far more than a socket holds, then says on standard output what is lost. */
const WRITER = `
  import { BoundedOutput } from '${pathToFileURL(resolve('src/core/kit/bounded-output.ts')).href}'
  const output = new BoundedOutput({ fd: 2, limitBytes: 100_000, lostLine: (lines) => lines + ' lines lost\\n' })
  for (let i = 0; i < 10_000; i++) output.write('x'.repeat(199) + '\\n')
  console.log(output.lost)
  await output.flush(20_000)
`

t.test(
  'a socket, such as the journal of systemd: a reader that stands still loses lines, not the process',
  async (t) => {
    // Node gives a child sockets where a shell gives it pipes
    const child = spawn(process.execPath, ['--input-type=module', '-e', WRITER])
    child.stderr.pause()
    const lost = await heard(child.stdout)
    t.ok(Number(lost.toString()) > 5_000, `${lost.toString().trim()} lines lost while nobody reads`)
    let text = ''
    child.stderr.on('data', (chunk: Buffer) => (text += chunk.toString())).resume()
    t.match(await readUntil(() => text.slice(-100), 'lines lost'), `${lost.toString().trim()} lines lost`)
    child.kill()
  },
)

t.test('the level of a log can be changed while it runs, for its children too', (t) => {
  const lines: string[] = []
  const log = openLog('warn', { write: (line) => void lines.push(line) })
  const child = log.child({ part: 'test' })
  child.info('not written')
  log.setLevel('debug')
  t.equal(child.isDebug, true)
  child.debug('written')
  log.setLevel('silent')
  child.error('not written either')
  t.match(lines, [/"part":"test".*"msg":"written"/])
  t.equal(lines.length, 1)
  t.end()
})
