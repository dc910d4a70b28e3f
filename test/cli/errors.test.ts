import { connect } from 'node:net'
import t from 'tap'
import { ERRORS, explain, MeshError, REMEDIES, type Details, type ErrorCode } from '../../src/core/errors.ts'
import { printable } from '../../src/core/kit/printable.ts'
import { sentenceOf } from '../../src/core/sentence.ts'

t.test('an error is a sentence: what is wrong and where, then the reason, then the cause', async (t) => {
  const enoent = Object.assign(new Error("ENOENT: no such file or directory, open '/x'"), {
    code: 'ENOENT',
    errno: -2,
    syscall: 'open',
    path: '/x',
  })
  const rows: Array<[ErrorCode, Details, unknown, string]> = [
    ['NOT_RUNNING', { what: 'agent', path: '/s/agent.sock' }, undefined, 'cannot reach the agent at /s/agent.sock'],
    ['NOT_RUNNING', {}, undefined, 'nothing answers'],
    ['USAGE', { kind: 'instances' }, undefined, 'unknown kind "instances"'],
    ['SERVICE_UNKNOWN', { service: 'a.b.c.d' }, undefined, 'service a.b.c.d was not found'],
    ['USAGE', { file: '/x' }, enoent, 'cannot read /x: no such file or directory'],
    ['CONFIG_INVALID', { path: '/y' }, enoent, 'invalid configuration in /y: no such file or directory, /x'],
    [
      'NO_PATH',
      { node: 'edge/n1', tried: ['direct', 'relayed'] },
      undefined,
      'no path to edge/n1 works; tried direct, relayed',
    ],
    [
      'NO_PATH',
      { tried: { '10.0.0.1:1': 'ECONNREFUSED' } },
      undefined,
      'no path to the node works; tried 10.0.0.1:1 (ECONNREFUSED)',
    ],
    ['REQUEST_TIMEOUT', { ms: 50 }, undefined, 'timed out after 50 ms'],
    ['SESSION_CLOSED', { reason: 'the peer left' }, undefined, 'the session has ended: the peer left'],
    [
      'PEER_REFUSED',
      {},
      new MeshError('LINK_CLOSED', { peer: 'edge' }),
      'the connection was refused: the control link to edge is down',
    ],
    ['STATE_CORRUPT', { path: '' }, undefined, 'the saved state is damaged'],
  ]
  for (const [code, details, cause, sentence] of rows)
    t.equal(explain(new MeshError(code, details, cause === undefined ? {} : { cause })), sentence)
})

t.test('the causes that the operating system gives are in words', async (t) => {
  const refused = await new Promise<Error>((resolve) => connect(1, '127.0.0.1').once('error', resolve))
  t.equal(
    explain(new MeshError('NO_PATH', { node: 'edge/n1' }, { cause: refused })),
    'no path to edge/n1 works: connection refused, 127.0.0.1:1',
  )
  t.equal(explain(new Error('as it is')), 'as it is')
  t.equal(explain('thrown'), 'thrown')
})

t.test('control characters that another node sends do not reach a terminal', async (t) => {
  const evil = '\u001b[31mRED\u001b]0;PWNED\u0007'
  t.equal(printable(evil), '\\x1b[31mRED\\x1b]0;PWNED\\x07')
  t.notMatch(new MeshError('SERVICE_UNKNOWN', { service: evil }).message, /\p{Cc}/u)
  t.equal(printable('name with spaces – and ümlauts 日本'), 'name with spaces – and ümlauts 日本')
})

t.test('every sentence can be printed whatever details are there', async (t) => {
  for (const [code, sentences] of Object.entries(ERRORS)) {
    const bare = sentenceOf(sentences, {})
    t.match(bare, /^[a-z].*[a-z)]$/, `${code}: ${bare}`)
    t.notMatch(bare, /[{}[\]=]/, code)
    for (const sentence of sentences) t.notMatch(sentence, /[.!]$|=/, `${code}: no full stop, no key=value`)
  }
  for (const [code, remedy] of Object.entries(REMEDIES))
    t.match(remedy, /^[A-Z][^]*[.?]$/, `${code}: the remedy is a sentence`)
})
