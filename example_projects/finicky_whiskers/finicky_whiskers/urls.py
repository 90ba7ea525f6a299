# The native pages. The routes of the game are in spin.toml and never come here.

from arena import views
from django.contrib.auth.views import LoginView, LogoutView
from django.urls import path

urlpatterns = [
    path("", views.home, name="home"),
    path("about", views.about, name="about"),
    path("live", views.live, name="live"),
    path("live/data", views.live_data, name="live-data"),
    path("clear", views.clear, name="clear"),
    path("login", LoginView.as_view(template_name="arena/login.html"), name="login"),
    path("logout", LogoutView.as_view(), name="logout"),
]
