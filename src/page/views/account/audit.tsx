import { useEffect, useState } from 'preact/hooks'
import { audit, type AuditRow } from '../../live/people.ts'
import { whenText } from '../../model/text.ts'
import { Badge } from '../../parts/badge.tsx'
import { useDesk } from '../../parts/desk.tsx'
import { Search } from '../../parts/search.tsx'
import { Sheet } from '../../parts/sheet.tsx'

/** Older pages are asked for by hand; new entries come by themselves. */
const FOLLOW_MS = 5_000

/** Who did what, and from where; the newest first. */
export function Audit({ now }: { now: number }) {
  const { api } = useDesk()
  const [typed, setTyped] = useState('')
  const [rows, setRows] = useState<AuditRow[]>()
  const [next, setNext] = useState<string>()
  const [fault, setFault] = useState<string>()
  const about = typed.trim()
  const query = about === '' ? '?limit=100' : `?limit=100&about=${encodeURIComponent(about)}`
  useEffect(() => {
    const gone = new AbortController()
    let isFirst = true
    const ask = async () => {
      try {
        const { items, next } = await audit(api, query, gone.signal)
        const wasFirst = isFirst
        isFirst = false
        setFault(undefined)
        if (wasFirst) setNext(next)
        setRows((known = []) => (wasFirst ? items : [...items, ...known.filter((one) => !isIn(items, one))]))
      } catch (error) {
        if (!gone.signal.aborted) setFault((error as Error).message)
      }
    }
    void ask()
    const timer = setInterval(() => document.visibilityState === 'visible' && void ask(), FOLLOW_MS)
    return () => {
      gone.abort()
      clearInterval(timer)
    }
  }, [api, query])
  const older = async () => {
    try {
      const page = await audit(api, `${query}&cursor=${next ?? ''}`)
      setRows((known = []) => [...known, ...page.items])
      setNext(page.next)
    } catch (error) {
      setFault((error as Error).message)
    }
  }
  return (
    <>
      <div class="tools bare">
        <Search label="About exactly this name" value={typed} change={setTyped} />
      </div>
      {fault === undefined ? undefined : <p class="notice bad">{fault}</p>}
      {rows === undefined ? (
        fault === undefined && <p class="muted">Asking the root …</p>
      ) : (
        <Sheet
          label="Audit log"
          rows={rows}
          keyOf={({ number }) => number}
          empty={about === '' ? 'Nothing yet.' : 'Nothing was done about what is called exactly so.'}
          columns={[
            {
              head: 'When',
              cell: ({ at }) => (
                <time dateTime={new Date(at).toISOString()} title={new Date(at).toLocaleString()}>
                  {whenText(at, now)}
                </time>
              ),
            },
            { head: 'User', cell: ({ user }) => <b>{user}</b> },
            { head: 'Call', cell: ({ call }) => call },
            { head: 'About', isExtra: true, cell: ({ about }) => <span class="mono">{about}</span> },
            { head: 'From', isExtra: true, cell: ({ from }) => from },
            { head: 'Token', isExtra: true, cell: ({ token }) => token },
            {
              head: 'Answer',
              cell: ({ status }) => <Badge tone={status < 400 ? 'good' : 'bad'}>{status}</Badge>,
            },
          ]}
        />
      )}
      {next === undefined ? undefined : (
        <p class="actions">
          <button type="button" class="button small" onClick={() => void older()}>
            Older
          </button>
        </p>
      )}
    </>
  )
}

function isIn(rows: readonly AuditRow[], { number }: AuditRow): boolean {
  return rows.some((row) => row.number === number)
}
