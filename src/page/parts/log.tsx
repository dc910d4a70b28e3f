import { useEffect, useLayoutEffect, useRef, useState } from 'preact/hooks'
import { logOf } from '../live/calls.ts'
import { NO_LINES, withText } from '../model/log-lines.ts'
import { useDesk } from './desk.tsx'

/** What an instance writes, as it comes; the end stays in sight while nobody has scrolled up. */
export function LogTail({ instance }: { instance: string }) {
  const { api } = useDesk()
  const [isOpen, setOpen] = useState(false)
  return (
    <>
      <h3 class="withbutton">
        Log
        <button type="button" class="button small" aria-expanded={isOpen} onClick={() => setOpen(!isOpen)}>
          {isOpen ? 'Hide' : 'Follow'}
        </button>
      </h3>
      {isOpen ? <Lines key={instance} instance={instance} api={api} /> : undefined}
    </>
  )
}

function Lines({ instance, api }: { instance: string; api: Parameters<typeof logOf>[0] }) {
  const box = useRef<HTMLPreElement>(null)
  const isAtEnd = useRef(true)
  const [{ lines, begun }, setLines] = useState(NO_LINES)
  const [ended, setEnded] = useState<string>()
  useEffect(() => {
    const gone = new AbortController()
    const read = async () => {
      for await (const text of logOf(api, instance, gone.signal)) setLines((before) => withText(before, text))
    }
    read().then(
      () => setEnded('The log has ended.'),
      (error: unknown) => gone.signal.aborted || setEnded((error as Error).message),
    )
    return () => gone.abort()
  }, [api, instance])
  useLayoutEffect(() => {
    if (isAtEnd.current && box.current !== null) box.current.scrollTop = box.current.scrollHeight
  })
  const scrolled = ({
    currentTarget: { scrollTop, clientHeight, scrollHeight },
  }: {
    currentTarget: HTMLPreElement
  }) => {
    isAtEnd.current = scrollTop + clientHeight > scrollHeight - 24
  }
  return (
    <>
      <pre class="log" role="log" aria-live="off" tabIndex={0} aria-label="Log" ref={box} onScroll={scrolled}>
        {lines.length === 0 && begun === '' ? <span class="muted">Nothing written yet.</span> : undefined}
        {lines.join('\n')}
        {begun === '' ? '' : `\n${begun}`}
      </pre>
      {ended === undefined ? undefined : <p class="muted">{ended}</p>}
    </>
  )
}
