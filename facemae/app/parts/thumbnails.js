// Small pictures of faces; a click chooses one. Names come as data and are set as attributes, never as markup.

export default function (component) {
  const { data, parentElement, setTriggerValue } = component
  const root = parentElement.querySelector('[data-part="faces"]')
  root.setAttribute("aria-label", data.label)
  const buttons = data.faces.map((face) => {
    const button = document.createElement("button")
    button.type = "button"
    button.title = face.name
    button.setAttribute("aria-pressed", String(face.name === data.chosen))
    const image = document.createElement("img")
    image.src = face.picture
    image.alt = face.name
    image.width = image.height = data.side
    button.append(image)
    button.onclick = () => setTriggerValue("chosen", face.name)
    return button
  })
  root.replaceChildren(...buttons)
}
