import type { ComponentChildren } from 'preact'
import { useEffect, useState } from 'preact/hooks'
import { chosenTheme, setTheme } from '../live/theme.ts'
import type { Api } from '../live/api.ts'
import { useDesk } from '../parts/desk.tsx'
import { Icon } from '../parts/icon.tsx'
import type { Link, Mesh } from '../model/mesh.ts'
import { hashOf, VIEWS, type View } from '../model/route.ts'
import { sentence, spanText } from '../model/text.ts'

interface Props {
  view: View
  link: Link
  mesh: Mesh
  now: number
  leave: () => void
  children: ComponentChildren
}

/** What is around every view: where one is, whether it is live. */
export function Frame({ view, link, mesh, now, leave, children }: Props) {
  const { api, me } = useDesk()
  const about = useAbout(api, link.state)
  useEffect(() => {
    document.title = `${sentence(view)} – ${about === undefined ? 'hedgerow' : about.mesh}`
  }, [view, about?.mesh])
  const isEmpty = mesh.clusters.length + mesh.services.length === 0
  return (
    <div class="frame">
      <a class="skip" href="#main" onClick={skip}>
        To the content
      </a>
      <header class="bar">
        <span class="brand">
          <img src="icon.svg" width="24" height="24" alt="" />
          <b>hedgerow</b>
          {about === undefined ? undefined : <span class="muted">{about.mesh}</span>}
        </span>
        <nav aria-label="Views">
          {VIEWS.map((each) => (
            <a key={each} href={hashOf({ view: each })} aria-current={each === view ? 'page' : undefined}>
              <Icon name={each} />
              {sentence(each)}
            </a>
          ))}
        </nav>
        <span class="end">
          <LinkState link={link} now={now} />
          <a
            class="button quiet who"
            href={hashOf({ view: 'account' })}
            aria-label={me === undefined ? 'Account' : `Account of ${me.user}`}
            aria-current={view === 'account' ? 'page' : undefined}
            title="Who you are, users, tokens, what was done"
          >
            <Icon name="account" />
            <span>{me?.user}</span>
          </a>
          <Theme />
          <button type="button" class="button quiet square" aria-label="Log out" title="Log out" onClick={leave}>
            <Icon name="leave" />
          </button>
        </span>
      </header>
      {link.state === 'lost' ? (
        <p class="lost" role="status">
          <b>No connection to the root.</b>{' '}
          {isEmpty ? link.why : `This is how it was ${spanText(now - link.since)} ago.`} Trying again …
        </p>
      ) : undefined}
      <main id="main" tabIndex={-1}>
        <h1 class="hidden">{sentence(view)}</h1>
        {link.state === 'connecting' ? <p class="waiting muted">Asking the root …</p> : children}
      </main>
    </div>
  )
}

function skip(event: Event): void {
  event.preventDefault()
  document.getElementById('main')?.focus()
}

function LinkState({ link, now }: { link: Link; now: number }) {
  const text =
    link.state === 'live' ? 'Live' : link.state === 'connecting' ? 'Connecting' : `Lost ${spanText(now - link.since)}`
  return <span class={`linkstate ${link.state}`}>{text}</span>
}

function Theme() {
  const [theme, set] = useState(chosenTheme)
  const other = theme === 'dark' ? 'light' : 'dark'
  const label = `Change to ${other} colours`
  return (
    <button
      type="button"
      class="button quiet square"
      aria-label={label}
      title={label}
      onClick={() => set(setTheme(other))}
    >
      <Icon name={other} />
    </button>
  )
}

interface About {
  mesh: string
  version: string
}

/** Asked once for each connection: another version may answer after a restart. */
function useAbout(api: Api, state: Link['state']): About | undefined {
  const [about, setAbout] = useState<About>()
  useEffect(() => {
    if (state === 'live') api.get<About>('/v1/status').then(setAbout, () => undefined) // the view says that the root is away
  }, [api, state])
  return about
}
